"""A fake of Sigstore's services on 127.0.0.1: a CI job's identity provider, Fulcio, Rekor and a certificate log.

It does what the package sigstore checks of them: certificates with a signed certificate timestamp (RFC 6962), log
entries with inclusion proof, checkpoint and promise (Rekor's v1). It keeps no log: every entry is alone in a tree.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

IDENTITY = "https://github.com/acme/models/.github/workflows/certify.yml@refs/heads/main"
ISSUER = "https://token.actions.githubusercontent.com"
_OLD_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""Real certificates hold both; the package sigstore compares this one."""
_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_NAME = "fake-rekor"


class SigstoreServices:
    """The services and their keys.

    Attributes:
        url: where they answer.
        identity: what the certificates name.
        refuses: paths that are answered with 500.
    """

    def __init__(self, url: str, identity: str = IDENTITY) -> None:
        self.url = url
        self.identity = identity
        self.refuses: set[str] = set()
        self._authority, self._certificate_log, self._log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self._root = self._make_root()

    def trust_config(self) -> dict[str, Any]:
        """Return the client trust config."""
        start = {"start": "2020-01-01T00:00:00Z"}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            details = {"rawBytes": _text(_spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": start}
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": details,
                "logId": {"keyId": _text(_key_id(key))},
            }

        service = {"url": self.url, "majorApiVersion": 1, "validFor": start, "operator": "fake"}
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self._log)],
                "ctlogs": [log(self._certificate_log)],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "fake", "commonName": "fake"},
                        "uri": self.url,
                        "certChain": {"certificates": [{"rawBytes": _text(self._root.public_bytes(Encoding.DER))}]},
                        "validFor": start,
                    }
                ],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "rekorTlogUrls": [service],
                "rekorTlogConfig": {"selector": "ANY"},
            },
        }

    def write_trust_config(self, folder: Path) -> Path:
        """Write the client trust config and return where."""
        path = folder / "trust_config.json"
        path.write_text(json.dumps(self.trust_config()), encoding="utf-8")
        return path

    def environment(self) -> Mapping[str, str]:
        """Return what a job of GitHub's with the permission to get a token finds in its environment."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "anything",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/token",
        }

    def answer(self, path: str, body: Any) -> Any:
        """Return the answer to a request."""
        if path.startswith("/token"):
            return {"value": self._token()}
        if path == "/api/v2/signingCert":
            request = x509.load_pem_x509_csr(base64.b64decode(body["certificateSigningRequest"]))
            chain = [_pem(self._certify(request.public_key())), _pem(self._root)]
            return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}
        if path == "/api/v1/log/entries":
            return {"0" * 64: self._entry(body["spec"]["proposedContent"])}
        raise KeyError(path)

    def _token(self) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "repo:acme/models", "aud": "sigstore", "iat": now, "exp": now + 300}
        return jwt.encode(claims, "x" * 32, algorithm="HS256")

    def _make_root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fake")])
        key = self._authority.public_key()
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return (
            x509.CertificateBuilder(name, name, key, x509.random_serial_number())
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2045, 1, 1, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .sign(self._authority, hashes.SHA256())
        )

    def _certify(self, key: Any) -> x509.Certificate:
        now = datetime.now(UTC)
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        issuer = b"\x0c" + bytes([len(ISSUER)]) + ISSUER.encode()
        builder = (
            x509.CertificateBuilder(self._root.subject, x509.Name([]), key, x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(minutes=10))
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(self.identity)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_OLD_ISSUER_OID, ISSUER.encode()), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_OID, issuer), critical=False)
        )
        before = builder.sign(self._authority, hashes.SHA256())
        stamps = x509.UnrecognizedExtension(_SCT_OID, self._timestamps(before.tbs_certificate_bytes))
        return builder.add_extension(stamps, critical=False).sign(self._authority, hashes.SHA256())

    def _timestamps(self, certificate: bytes) -> bytes:
        """Return the list of one signed certificate timestamp (RFC 6962, 3.2 and 3.3)."""
        when = int(time.time() * 1000)
        entry = _key_id(self._authority) + struct.pack("!I", len(certificate))[1:] + certificate
        signed = struct.pack("!BBQH", 0, 0, when, 1) + entry + struct.pack("!H", 0)
        signature = _sign(self._certificate_log, signed)
        stamp = b"\0" + _key_id(self._certificate_log) + struct.pack("!QH", when, 0) + b"\4\3"
        stamp += struct.pack("!H", len(signature)) + signature
        stamps = struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp
        assert len(stamps) < 128  # then its length is one byte in DER
        return b"\x04" + bytes([len(stamps)]) + stamps

    def _entry(self, proposed: dict[str, Any]) -> dict[str, Any]:
        envelope = json.loads(proposed["envelope"])
        payload = base64.b64decode(envelope["payload"])
        spec: dict[str, Any] = {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(proposed["envelope"].encode()).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": envelope["signatures"][0]["sig"], "verifier": proposed["verifiers"][0]}],
        }
        body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        entry: dict[str, Any] = {
            "body": _text(body),
            "integratedTime": int(time.time()),
            "logID": _key_id(self._log).hex(),
            "logIndex": 0,
        }
        promise = _text(_sign(self._log, rfc8785.dumps(entry)))
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"{_NAME}\n1\n{_text(root)}\n"
        signature = _text(_key_id(self._log)[:4] + _sign(self._log, note.encode()))
        proof = {
            "checkpoint": f"{note}\n\u2014 {_NAME} {signature}\n",
            "hashes": [],
            "logIndex": 0,
            "rootHash": root.hex(),
            "treeSize": 1,
        }
        return {**entry, "verification": {"inclusionProof": proof, "signedEntryTimestamp": promise}}


@contextmanager
def sigstore_services(identity: str = IDENTITY) -> Iterator[SigstoreServices]:
    """Run the services, and let this process look like a job of GitHub's that uses them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    services = SigstoreServices(f"http://127.0.0.1:{server.server_address[1]}", identity)
    server.services = services  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in services.environment().items():
                patch.setenv(name, value)
            yield services
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: Any) -> None:
        services: SigstoreServices = self.server.services  # type: ignore[attr-defined]
        refused = any(self.path.startswith(path) for path in services.refuses)
        data = json.dumps({"message": "no"} if refused else services.answer(self.path, body)).encode()
        self.send_response(500 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_spki(key)).digest()


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
