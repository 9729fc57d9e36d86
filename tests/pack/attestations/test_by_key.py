"""Attesting with a key of one's own: ours, checked by securesystemslib, by Sigstore's own models, and by openssl."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]
from sigstore.dsse import Statement
from sigstore_models.bundle.v1 import Bundle

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.attest import AttestRequest, open_attestor
from pytest_proofpack.pack.attestations import FILE
from pytest_proofpack.pack.attestations.by_key import PASSPHRASE
from pytest_proofpack.pack.attestations.trust import AttestTrust
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.sign import SigningMode
from pytest_proofpack.pack.verify import VerificationReport, verify_pack
from tests.pack.conftest import Maker
from tests.support.attest_keys import AttestKey
from tests.support.certificates import RunFiles
from tests.support.packs import pack_of


def trusting(*keys: AttestKey) -> Demands:
    return Demands(attesters=AttestTrust(tuple(key.public_pem for key in keys)))


def bundle_of(pack: Path) -> JsonObject:
    document: JsonObject = json.loads((pack / FILE).read_bytes())
    return document


def findings(report: VerificationReport) -> str:
    return " | ".join(finding for step in report.steps for finding in step.findings)


class TestForm:
    def test_securesystemslib_verifies_the_envelope(self, pack: Path, key: AttestKey) -> None:
        envelope = Envelope.from_dict(bundle_of(pack)["dsseEnvelope"])
        (key_id,) = envelope.signatures
        public = SSlibKey.from_crypto(key.private.public_key(), key_id)
        assert envelope.verify([public], 1) == {key_id: public}
        other = SSlibKey.from_crypto(AttestKey().private.public_key(), key_id)
        with pytest.raises(VerificationError):
            envelope.verify([other], 1)

    def test_sigstores_models_parse_bundle_and_statement(self, pack: Path) -> None:
        bundle = Bundle.from_json((pack / FILE).read_bytes())
        assert bundle.media_type == "application/vnd.dev.sigstore.bundle.v0.3+json"
        assert bundle.dsse_envelope is not None
        assert bundle.dsse_envelope.payload_type == "application/vnd.in-toto+json"
        Statement(bundle.dsse_envelope.payload)

    def test_openssl_verifies_the_signature(self, pack: Path, key: AttestKey, tmp_path: Path) -> None:
        envelope = bundle_of(pack)["dsseEnvelope"]
        payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
        (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
        (tmp_path / "signed").write_bytes(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload)
        _, public = key.write(tmp_path)
        command = ["openssl", "dgst", "-sha256", "-verify", str(public), "-signature", "sig", "signed"]
        assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 0

    def test_the_statement_is_about_the_manifest_and_the_models(self, pack: Path) -> None:
        statement = json.loads(base64.b64decode(bundle_of(pack)["dsseEnvelope"]["payload"]))
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
        manifest, *models = statement["subject"]
        assert manifest == {
            "name": "manifest.json",
            "digest": {"sha256": hashlib.sha256((pack / "manifest.json").read_bytes()).hexdigest()},
        }
        certificate = json.loads(next(pack.glob("certs/*/calibration/run_1/evaluation.cert.json")).read_bytes())
        digest = certificate["provenance"]["model_digest"]["baseline"]
        assert models == [{"name": "baseline acme/Tiny-1M", "digest": {"sha256": digest}}]
        predicate = statement["predicate"]
        assert (predicate["result"], predicate["failedTests"]) == ("PASSED", [])
        verdict = json.loads((pack / "results/final_verdict.json").read_bytes())
        assert len(predicate["passedTests"] + predicate["warnedTests"]) == len(verdict["certificates"])
        assert [entry["name"] for entry in predicate["configuration"]] == [
            "state/scenarios.json",
            "state/tuned_edit_params.json",
        ]

    def test_the_keys_id_is_what_openssl_gives(self, pack: Path, key: AttestKey) -> None:
        der = key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert bundle_of(pack)["verificationMaterial"]["publicKey"]["hint"] == hashlib.sha256(der).hexdigest()


class TestVerification:
    def test_a_trusted_key_is_pinned(self, pack: Path, key: AttestKey) -> None:
        report = verify_pack(pack, trusting(AttestKey(), key))
        assert report.ok, findings(report)
        assert report.attestation is not None
        assert report.attestation.pinned
        assert report.steps[0].warnings == ("the pack is unsigned",)
        assert report.signer == "unsigned"

    def test_without_a_key_it_is_attested_and_not_pinned(self, pack: Path) -> None:
        report = verify_pack(pack)
        assert report.ok, findings(report)
        assert report.attestation is not None
        assert report.attestation.sentence.startswith("attested, not pinned: by key ")
        warnings = [warning for step in report.steps for warning in step.warnings]
        assert any("its signature was not checked" in warning and "[attest]" in warning for warning in warnings)
        assert report.to_json()["attestation"]["pinned"] is False

    def test_signature_and_attestation_live_side_by_side(
        self, run_files: RunFiles, key: AttestKey, gnupg: Maker, tmp_path: Path
    ) -> None:
        private, _ = key.write(tmp_path)
        attest = AttestRequest(keys=(str(private),))
        pack = pack_of(run_files.directory, tmp_path / "pack", sign=SigningMode.REQUIRED, attest=attest)
        demands = Demands((gnupg[1],), attesters=AttestTrust((key.public_pem,)))
        report = verify_pack(pack, demands)
        assert report.ok, findings(report)
        assert report.pinned
        assert report.attestation is not None
        assert report.attestation.pinned
        assert f"`{FILE}`" in (pack / "README.md").read_text(encoding="utf-8")

    def test_another_key_fails_before_anything_is_parsed(self, pack: Path) -> None:
        report = verify_pack(pack, trusting(AttestKey()))
        assert "by none of the trusted keys, or was changed" in findings(report)
        assert [step.step for step in report.steps if step.status == "passed"] == ["signature"]
        assert report.attestation is None

    def test_a_pack_whose_attestation_was_taken_away_fails_where_one_is_demanded(
        self, unsigned: Path, key: AttestKey
    ) -> None:
        assert findings(verify_pack(unsigned, trusting(key))) == "the pack has no attestation, and one is required"
        assert verify_pack(unsigned).attestation is None

    def test_identity_demanded_and_key_given(self, pack: Path) -> None:
        demands = Demands(attesters=AttestTrust(identity="me@example.org", issuer="https://accounts.example.org"))
        assert "which is not one of those that are trusted" in findings(verify_pack(pack, demands))


class TestKeys:
    def opened(self, key: Path | str, **settings: str) -> str:
        attesting = open_attestor(AttestRequest(keys=(str(key),), **settings), "offline")
        assert attesting is not None
        return attesting.attester

    def test_from_the_environment(self, key: AttestKey, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI_KEY", key.private_pem().decode())
        assert self.opened("env:CI_KEY").startswith("key ")
        with pytest.raises(ConfigurationError, match="no environment variable OTHER"):
            self.opened("env:OTHER")

    def test_with_a_passphrase(self, key: AttestKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        private, _ = key.write(tmp_path, b"secret")
        monkeypatch.delenv(PASSPHRASE, raising=False)
        with pytest.raises(PackError, match=PASSPHRASE):
            self.opened(private)
        monkeypatch.setenv(PASSPHRASE, "wrong")
        with pytest.raises(ConfigurationError, match="does not open it"):
            self.opened(private)
        monkeypatch.setenv(PASSPHRASE, "secret")
        assert self.opened(private).startswith("key ")

    def test_a_key_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        private, _ = AttestKey(ec.SECP384R1()).write(tmp_path)
        with pytest.raises(ConfigurationError, match="not an ECDSA key over P-256"):
            self.opened(private)
        pem = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        private.write_bytes(pem)
        with pytest.raises(ConfigurationError, match="not an ECDSA key over P-256"):
            self.opened(private)

    def test_what_is_no_key_is_refused(self, key: AttestKey, tmp_path: Path) -> None:
        private, public = key.write(tmp_path)
        with pytest.raises(ConfigurationError, match="no private key in PEM"):
            self.opened(public)
        with pytest.raises(ConfigurationError, match="cannot be read"):
            self.opened(tmp_path / "none.pem")
        with pytest.raises(ConfigurationError, match="holds no public key in PEM"):
            AttestTrust((private.read_bytes(),))
        with pytest.raises(ConfigurationError, match="over P-256"):
            AttestTrust((AttestKey(ec.SECP384R1()).public_pem,))

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            (AttestRequest("key"), "needs a key"),
            (AttestRequest("stamp"), "choose one of off, key, sigstore"),
            (AttestRequest(keys=("a", "b")), "attested with one key"),
            (AttestRequest("key", ("a",), "config.json"), "for --proofpack-attest=sigstore only"),
            (AttestRequest("sigstore"), "allow it with --proofpack-net"),
        ],
    )
    def test_what_cannot_be_meant_is_a_usage_error(self, request_: AttestRequest, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            open_attestor(request_, "offline")

    def test_off_attests_nothing_though_there_is_a_key(self) -> None:
        assert open_attestor(AttestRequest("off", ("a.pem",)), "offline") is None
        assert open_attestor(AttestRequest(), "offline") is None

    def test_without_the_package_it_says_what_to_install(self, key: AttestKey, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "cryptography", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'pytest-proofpack\[attest\]'"):
            AttestTrust((key.public_pem,))

    def test_without_the_package_an_attested_pack_still_verifies_unpinned(
        self, pack: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "cryptography", None)
        report = verify_pack(pack)
        assert report.ok, findings(report)
        assert report.attestation is not None
        assert not report.attestation.pinned
