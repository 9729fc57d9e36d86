"""A signer that is not ours: one record is all it takes to sign, name, ship, explain and verify another signature."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.sign import SigningMode, check_signing, choose_signer
from pytest_proofpack.pack.signers import SIGNERS, SignatureReport, Signer, normal_key
from pytest_proofpack.pack.verify import VerificationReport, verify_pack
from pytest_proofpack.pack.write import PackRequest, write_pack
from tests.support.certificates import RunFiles
from tests.support.forgery import rewrite_checksums
from tests.support.packs import NEW_YEAR, keyring, using

SECRET = b"shared"
WHO = "seal:the office"
FILE = "manifest.seal"


def seal(manifest: bytes) -> bytes:
    return hmac.digest(SECRET, manifest, "sha256")


@dataclass(frozen=True)
class SealKey:
    fingerprint: str = WHO

    def sign(self, manifest: bytes) -> Mapping[str, bytes]:
        return {FILE: seal(manifest)}


class Seal(Signer):
    name = "seal"
    files: Mapping[str, str] = {FILE: "the office's seal over `manifest.json`"}
    check_by_hand = f"openssl dgst -sha256 -hmac shared manifest.json # compare with {FILE}"
    caution = "that the office has seen it."
    advice = "Ask the office"

    def find_key(self, wanted: str | None) -> SealKey:
        if wanted not in {None, WHO}:
            raise PackError(f"the office has no seal {wanted}")
        return SealKey()

    def normal_key(self, text: str, option: str) -> str:
        if not text.startswith("seal:"):
            raise ConfigurationError(f"{option}: no seal")
        return text

    def verify(
        self,
        manifest: bytes,
        files: Mapping[str, bytes],
        trusted: Collection[str] = (),
        key_files: Sequence[bytes] = (),
    ) -> SignatureReport:
        assert not key_files
        findings = [] if hmac.compare_digest(files[FILE], seal(manifest)) else ["the seal is broken"]
        if trusted and WHO not in trusted:
            findings.append("not the trusted office")
        return SignatureReport(WHO, bool(trusted) and not findings, tuple(findings))


@pytest.fixture
def registered() -> Iterator[Signer]:
    signer = Seal()
    SIGNERS.register(signer)
    yield signer
    SIGNERS.unregister(signer.name)


@pytest.fixture
def sealed(registered: Signer, run_files: RunFiles, tmp_path: Path) -> Path:
    request = PackRequest(
        run_files.directory, tmp_path / "pack", sign=registered.name, html=False, generated_at=NEW_YEAR
    )
    return write_pack(request).directory


def signature_findings(report: VerificationReport, step: str = "signature") -> tuple[str, ...]:
    return next(found.findings for found in report.steps if found.step == step)


def test_its_pack_verifies_and_says_who_signed(sealed: Path) -> None:
    report = verify_pack(sealed, Demands(trusted_keys=(WHO,), require_signature=True))
    assert report.ok, report.to_json()
    assert (report.signed, report.fingerprint, report.pinned) == (True, WHO, True)


def test_the_manifest_names_it_and_the_readme_explains_it(sealed: Path) -> None:
    signing = json.loads((sealed / "manifest.json").read_bytes())["signing"]
    assert signing == {"status": "signed", "fingerprint": WHO, "reason": None, "signer": "seal"}
    readme = (sealed / "README.md").read_text(encoding="utf-8")
    assert f"| `{FILE}` | the office's seal over `manifest.json` |" in readme
    assert Seal.check_by_hand in readme
    assert "gpg" not in readme.replace("pgp", "")
    assert not (sealed / "manifest.json.asc").exists()


def test_a_broken_seal_and_another_office_are_found(sealed: Path) -> None:
    assert signature_findings(verify_pack(sealed, Demands(("A" * 40,)))) == ("not the trusted office",)
    (sealed / FILE).write_bytes(hashlib.sha256(b"forged").digest())
    rewrite_checksums(sealed)
    assert signature_findings(verify_pack(sealed)) == ("the seal is broken",)


def test_without_its_file_the_pack_is_not_signed(sealed: Path) -> None:
    (sealed / FILE).unlink()
    rewrite_checksums(sealed)
    found = signature_findings(verify_pack(sealed), "manifest")
    assert found == (f"manifest.json says that it was signed, but {FILE} is missing",)


def test_a_signature_of_another_kind_beside_it_is_an_extra_file(sealed: Path) -> None:
    (sealed / "manifest.json.asc").write_text("anything", encoding="utf-8")
    rewrite_checksums(sealed)
    files = next(step for step in verify_pack(sealed).steps if step.step == "files")
    assert files.findings == ("'manifest.json.asc': an extra file that manifest.json does not name",)


def test_a_verifier_without_the_signer_says_so(sealed: Path) -> None:
    SIGNERS.unregister("seal")
    report = verify_pack(sealed)
    assert not report.ok
    assert "'seal', a signer that is not installed here" in signature_findings(report, "manifest")[0]


def test_it_signs_where_nothing_before_it_can(registered: Signer) -> None:
    with keyring() as empty, using(empty):
        key, signing = choose_signer(SigningMode.AUTO)
        assert key is not None
        assert (signing.signer, signing.fingerprint) == ("seal", WHO)
        with pytest.raises(PackError, match=r"--proofpack-sign=openpgp\), but gpg has no usable secret key"):
            check_signing("openpgp", None)


def test_every_reason_is_told_where_none_can(registered: Signer) -> None:
    with keyring() as empty, using(empty):
        with pytest.raises(PackError) as refused:
            choose_signer(SigningMode.AUTO, "seal:elsewhere")
        assert (
            "gpg has no usable secret key seal:elsewhere that can sign; the office has no seal seal:elsewhere"
        ) in str(refused.value)


def test_a_key_is_understood_by_whoever_understands_it(registered: Signer) -> None:
    assert normal_key(WHO, "--key") == WHO
    assert normal_key("a" * 40, "--key") == "A" * 40
    with pytest.raises(ConfigurationError, match="not a full fingerprint"):
        normal_key("neither", "--key")


@pytest.mark.parametrize("sign", ["", "Auto", "seal", "pgp"])
def test_what_is_no_signer_is_a_usage_error(sign: str) -> None:
    with pytest.raises(ConfigurationError, match="choose one of auto, required, off, openpgp"):
        check_signing(sign, None)
