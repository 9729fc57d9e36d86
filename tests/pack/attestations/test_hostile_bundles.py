"""Bundles that anybody may put into a pack: each is refused for its own reason, with a trusted key and without."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.pack.attestations import FILE, attestor_of
from pytest_proofpack.pack.attestations.bundle import bundle_json, parse_bundle, pre_authentication_encoding
from pytest_proofpack.pack.attestations.by_key import LocalKey
from pytest_proofpack.pack.attestations.trust import AttestTrust
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.verify import PackVerifier, verify_pack
from tests.support.attest_keys import AttestKey
from tests.support.forgery import rewrite_checksums

Change = Callable[[JsonObject], object]


def put(pack: Path, data: bytes) -> None:
    (pack / FILE).write_bytes(data)
    rewrite_checksums(pack)


def changed(pack: Path, change: Change) -> bytes:
    bundle = json.loads((pack / FILE).read_bytes())
    change(bundle)
    return json.dumps(bundle).encode()


def statement_of(pack: Path) -> JsonObject:
    envelope = json.loads((pack / FILE).read_bytes())["dsseEnvelope"]
    document: JsonObject = json.loads(base64.b64decode(envelope["payload"]))
    return document


def findings(pack: Path, step: str, *trusted: AttestKey) -> str:
    demands = Demands(attesters=AttestTrust(tuple(key.public_pem for key in trusted)))
    return " | ".join(PackVerifier(pack, demands).run(step).findings)


def signed_anew(key: AttestKey, payload: bytes) -> bytes:
    """What the key's owner could sign who lies."""
    return LocalKey("key", "0" * 64, key.private).sign(payload)


def envelope(**parts: object) -> Change:
    return lambda bundle: bundle["dsseEnvelope"].update(parts)


def material(**parts: object) -> Change:
    return lambda bundle: bundle.update(verificationMaterial=parts)


def second_signature(bundle: JsonObject) -> None:
    bundle["dsseEnvelope"]["signatures"] *= 2


def as_a_file_signature(bundle: JsonObject) -> None:
    bundle["messageSignature"] = {"signature": "AAAA"}
    del bundle["dsseEnvelope"]


FORMS: dict[str, tuple[Change, str]] = {
    "another media type": (lambda b: b.update(mediaType="application/json"), "its mediaType is 'application/json'"),
    "no media type": (lambda b: b.pop("mediaType"), "its mediaType is None"),
    "a file's signature": (as_a_file_signature, "signs a file, and attests no statement"),
    "another payload type": (envelope(payloadType="text/plain"), "its payload is of type 'text/plain'"),
    "two signatures": (second_signature, "2 signatures, where exactly one is allowed"),
    "no signature": (envelope(signatures=[]), "0 signatures, where exactly one is allowed"),
    "signatures that are no list": (envelope(signatures={}), "no list of signatures"),
    "a signature that is no object": (envelope(signatures=["AAAA"]), "signatures[0] holds no object"),
    "an empty signature": (envelope(signatures=[{"sig": ""}]), "its signature is not base64, or empty"),
    "a payload that is not base64": (envelope(payload="?!"), "its payload is not base64, or empty"),
    "a payload that is a number": (envelope(payload=1), "its payload is not base64, or empty"),
    "an unknown field": (envelope(extra=1), "dsseEnvelope holds"),
    "an envelope that is a list": (lambda b: b.update(dsseEnvelope=[]), "dsseEnvelope holds no object"),
    "an unknown part": (lambda b: b.update(more={}), "the bundle holds"),
    "nothing to check with": (material(tlogEntries=[]), "where exactly one of publicKey and certificate belongs"),
    "two things to check with": (material(publicKey={}, certificate={}), "where exactly one of publicKey and"),
    "material that is a list": (lambda b: b.update(verificationMaterial=[]), "its verificationMaterial is no object"),
    "material of a kind unknown here": (material(pigeon={}), "nothing here checks a bundle with 'pigeon'"),
}


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "nobody"])
@pytest.mark.parametrize("name", FORMS)
def test_a_bundle_of_another_form(pack: Path, key: AttestKey, name: str, trusted: bool) -> None:
    change, finding = FORMS[name]
    put(pack, changed(pack, change))
    assert finding in findings(pack, "attestation", *([key] if trusted else []))


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "not valid JSON"),
        (b"[]", "object"),
        (b'{"mediaType": 1, "mediaType": 2}', "twice"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested"),
        (b'{"a":[' + b"1," * 100_000 + b"1]}", "values, more than the 2000 allowed"),
        (b'{"a":"' + b"x" * BUDGETS.attestation_bytes + b'"}', f"more than the {BUDGETS.attestation_bytes} allowed"),
    ],
    ids=["empty", "a list", "a key twice", "nested", "many values", "huge"],
)
def test_a_file_that_is_no_bundle(pack: Path, data: bytes, finding: str) -> None:
    put(pack, data)
    found = findings(pack, "attestation")
    assert FILE in found
    assert finding in found


def test_a_changed_payload(pack: Path, key: AttestKey) -> None:
    other = json.dumps({**statement_of(pack), "predicate": {"result": "PASSED"}}).encode()
    put(pack, changed(pack, envelope(payload=base64.b64encode(other).decode())))
    assert "by none of the trusted keys, or was changed" in findings(pack, "attestation", key)


def test_a_signature_over_the_payload_alone_does_not_count(pack: Path, key: AttestKey) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    payload = json.dumps(statement_of(pack)).encode()
    assert pre_authentication_encoding(payload) != payload
    put(pack, bundle_json(payload, key.private.sign(payload, ECDSA(SHA256())), "0" * 64))
    assert "by none of the trusted keys" in findings(pack, "attestation", key)


def subject(position: int, **parts: object) -> Change:
    return lambda statement: statement["subject"][position].update(parts)


def predicate(**parts: object) -> Change:
    return lambda statement: statement["predicate"].update(parts)


OTHER = {"sha256": "0" * 64}
LIES: dict[str, tuple[Change, str, str]] = {
    "another manifest": (subject(0, digest=OTHER), "attestation", "is about another pack"),
    "a manifest of another name": (subject(0, name="other.json"), "attestation", "is about another pack"),
    "no subjects": (lambda s: s.pop("subject"), "attestation", "is about another pack"),
    "another type": (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "attestation", "_type is"),
    "another predicate": (lambda s: s.update(predicateType="https://slsa.dev"), "attestation", "predicateType is"),
    "another baseline": (subject(1, digest=OTHER), "statement", "the digest of 'baseline acme/Tiny-1M' is missing"),
    "another baseline's name": (subject(1, name="baseline gpt"), "statement", "is none of this pack"),
    "a subject more": (
        lambda s: s["subject"].append({"name": "release.tar", "digest": OTHER}), "statement", "is none of this pack"
    ),
    "a subject twice": (lambda s: s["subject"].append(s["subject"][0]), "statement", "names a subject twice"),
    "another result": (predicate(result="FAILED"), "statement", "predicate.result is 'FAILED'"),
    "no result": (lambda s: s.pop("predicate"), "statement", "predicate.result is None"),
    "a test less": (lambda s: s["predicate"]["passedTests"].pop(), "statement", "predicate.passedTests"),
    "a test that failed": (predicate(failedTests=["x"]), "statement", "predicate.failedTests"),
    "another configuration": (predicate(configuration=[]), "statement", "predicate.configuration is []"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_statement_that_is_not_so(pack: Path, key: AttestKey, name: str) -> None:
    """Signed by the trusted key: the signer lies, or takes a statement of another pack."""
    change, step, finding = LIES[name]
    statement = statement_of(pack)
    change(statement)
    put(pack, signed_anew(key, json.dumps(statement).encode()))
    assert finding in findings(pack, step, key)


@pytest.mark.parametrize("payload", [b"not json", b"[1]", b'{"a":' * 500 + b"1" + b"}" * 500])
def test_a_payload_that_is_no_statement(pack: Path, key: AttestKey, payload: bytes) -> None:
    put(pack, signed_anew(key, payload))
    assert "the attested statement" in findings(pack, "attestation", key)


def test_fields_of_a_later_version_are_let_be(pack: Path, key: AttestKey) -> None:
    statement = statement_of(pack)
    statement["predicate"]["url"] = "https://ci.example.org/runs/1"
    put(pack, signed_anew(key, json.dumps(statement, indent=1).encode()))
    assert verify_pack(pack, Demands(attesters=AttestTrust((key.public_pem,)))).ok


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        ("5f2c" * 16, "key " + "5f2c" * 16),
        ("eE3v8Kq/zQ+W0bYxg1nJt2a4D5s6F7h8j9k0l1m2n3o=", "key eE3v8Kq/zQ+W0bYxg1nJt2a4D5s6F7h8j9k0l1m2n3o="),
        ("\x1b[2Jkey of the president\nVERIFIED" + "!" * 100_000, "a key without a name"),
        ("1" + " " * 50 + "Signed by 52DD, pinned.", "a key without a name"),
        ("1\u2800Signed", "a key without a name"),
        ("a" * 256, "a key without a name"),
        (["a"], "a key without a name"),
    ],
)
def test_a_hint_is_shown_only_if_it_can_be_a_name(pack: Path, hint: object, shown: str) -> None:
    put(pack, changed(pack, material(publicKey={"hint": hint})))
    report = verify_pack(pack)
    assert report.attestation is not None
    assert report.attestation.attester == shown


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary().map(lambda data: base64.b64encode(data).decode()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["publicKey", "certificate"]), JSON, st.sampled_from(["hint", "rawBytes", "other"]), JSON)
@settings(max_examples=300, deadline=None)
def test_whatever_a_bundle_says_of_its_attester_is_a_text(kind: str, whole: object, name: str, part: object) -> None:
    for value in (whole, {name: part}):
        bundle = json.loads(bundle_json(b"{}", b"signature", "id"))
        bundle["verificationMaterial"] = {kind: value}
        parsed = parse_bundle(json.dumps(bundle).encode())
        assert isinstance(attestor_of(parsed).claimed(parsed), str)


def test_an_attestation_outside_of_the_checksums_is_found(pack: Path) -> None:
    (pack / FILE).write_bytes((pack / FILE).read_bytes() + b" ")
    assert "the digest of 'manifest.json.sigstore.json' does not match" in findings(pack, "files")
