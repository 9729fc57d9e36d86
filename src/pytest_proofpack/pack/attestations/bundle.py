"""The file of an attestation: a Sigstore bundle, version 0.3, with a DSSE envelope around an in-toto statement.

Forms: https://github.com/sigstore/protobuf-specs (sigstore_bundle.proto), https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.common.words import shortened
from pytest_proofpack.errors import FormatError

FILE = "manifest.json.sigstore.json"
"""Where the attestation lies in a pack."""
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_KEYS = frozenset({"mediaType", "verificationMaterial", "dsseEnvelope"})
_ENVELOPE_KEYS = frozenset({"payload", "payloadType", "signatures"})
_COMMON_MATERIAL = frozenset({"tlogEntries", "timestampVerificationData"})
_SHOWN = 80


@dataclass(frozen=True)
class Bundle:
    """A bundle whose form is right; nothing in it is proved.

    Attributes:
        material: what its signature is to be checked with: ``publicKey``, ``certificate``, ``x509CertificateChain``.
        verification: the whole verification material.
        payload: the bytes that were signed: the statement.
        signature: the signature over :meth:`signed`.
        raw: the file.
    """

    material: str
    verification: JsonObject
    payload: bytes
    signature: bytes
    raw: bytes = field(repr=False)

    def signed(self) -> bytes:
        """Return what the signature is over."""
        return pre_authentication_encoding(self.payload)


def pre_authentication_encoding(payload: bytes) -> bytes:
    """Return what a DSSE signature of an in-toto statement is over (DSSE, protocol.md, PAE)."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def bundle_json(payload: bytes, signature: bytes, key_id: str) -> bytes:
    """Return the bundle of a statement that was signed with a key of one's own."""
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": key_id}],
        },
    }
    return compact_json(bundle).encode() + b"\n"


def parse_bundle(data: bytes) -> Bundle:
    """Return the bundle of a file that may hold anything.

    Raises:
        FormatError: says in what it is not a bundle with one signed in-toto statement.
    """
    document = parse_json(data, FILE, max_bytes=BUDGETS.attestation_bytes, max_values=BUDGETS.attestation_values)
    if (media := document.get("mediaType")) != MEDIA_TYPE:
        raise _wrong(f"its mediaType is {_shown(media)}, not {MEDIA_TYPE}")
    if "messageSignature" in document:
        raise _wrong("signs a file, and attests no statement: there is a messageSignature in place of a dsseEnvelope")
    _require_keys("the bundle", document, _KEYS)
    envelope, verification = document["dsseEnvelope"], document["verificationMaterial"]
    _require_keys("dsseEnvelope", envelope, _ENVELOPE_KEYS)
    if (kind := envelope["payloadType"]) != PAYLOAD_TYPE:
        raise _wrong(f"its payload is of type {_shown(kind)}, not {PAYLOAD_TYPE}")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        count = len(signatures) if isinstance(signatures, list) else "no list of"
        raise _wrong(f"{count} signatures, where exactly one is allowed")
    _require_keys("signatures[0]", signatures[0], frozenset({"sig"}), frozenset({"keyid"}))
    return Bundle(
        _material(verification),
        verification,
        decoded(envelope["payload"], "payload"),
        decoded(signatures[0]["sig"], "signature"),
        data,
    )


def decoded(text: object, what: str) -> bytes:
    """Return what a text in base64 says.

    Raises:
        FormatError: it is none, or empty.
    """
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise _wrong(f"its {what} is not base64, or empty")
    return data


def _material(verification: object) -> str:
    if not isinstance(verification, dict):
        raise _wrong("its verificationMaterial is no object")
    kinds = sorted(verification.keys() - _COMMON_MATERIAL)
    if len(kinds) != 1:
        raise _wrong(
            f"verificationMaterial holds {_shown(kinds)}, where exactly one of publicKey and certificate belongs"
        )
    return str(kinds[0])


def _require_keys(what: str, found: Any, wanted: frozenset[str], optional: frozenset[str] = frozenset()) -> None:
    if not isinstance(found, dict) or not wanted <= found.keys() <= wanted | optional:
        names = _shown(sorted(found)) if isinstance(found, dict) else "no object"
        raise _wrong(f"{what} holds {names}, where {', '.join(sorted(wanted))} belong")


def _shown(value: object) -> str:
    return shortened(repr(value), _SHOWN)


def _wrong(problem: str) -> FormatError:
    return FormatError(f"{FILE}: {problem}")
