from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.pack.signers.openpgp_verify import MAX_SIGNATURE_BYTES, verify_signature
from pytest_proofpack.pack.signers.signer import SignatureReport
from tests.pack.conftest import Maker
from tests.support.openpgp import AGES_AGO, Keyring
from tests.support.packs import keyring, using

MANIFEST = b'{"format": "proof-pack-v1"}\n'


def findings_in(ring: Keyring, signature: bytes, manifest: bytes = MANIFEST) -> str:
    with using(ring):
        report = verify_signature(manifest, signature)
    assert not report.pinned
    return " | ".join(report.findings)


def test_a_good_signature_names_its_key(gnupg: Maker) -> None:
    ring, key = gnupg
    assert verify_signature(MANIFEST, ring.sign(MANIFEST, key)) == SignatureReport(key, False, ())


def test_a_trusted_key_is_pinned_and_another_is_refused(gnupg: Maker) -> None:
    ring, key = gnupg
    signature = ring.sign(MANIFEST, key)
    assert verify_signature(MANIFEST, signature, ["A" * 40, key]) == SignatureReport(key, True, ())
    refused = verify_signature(MANIFEST, signature, ["A" * 40])
    assert not refused.pinned
    assert refused.findings == (f"signed by {key}, which is not one of the trusted keys",)


def test_a_subkey_signs_for_its_primary_key(gnupg: Maker) -> None:
    with keyring() as ring:
        primary = ring.make_key()
        ring.gpg("--quick-add-key", primary, "ed25519", "sign", "never")
        with using(ring):
            report = verify_signature(MANIFEST, ring.sign(MANIFEST, primary), [primary])
    assert report == SignatureReport(primary, True, ())


def test_another_manifest_is_refused(gnupg: Maker) -> None:
    ring, key = gnupg
    found = findings_in(ring, ring.sign(MANIFEST, key), MANIFEST + b" ")
    assert "does not belong to manifest.json" in found


def test_a_key_that_nobody_imported_is_named(gnupg: Maker, stranger: Maker) -> None:
    ring, key = stranger
    found = findings_in(gnupg[0], ring.sign(MANIFEST, key))
    assert f"signed by key {key}, which is not in your keyring" in found
    assert "gpg --import" in found


def test_an_expired_key_is_refused() -> None:
    with keyring() as ring:
        key = ring.make_key(expires="1y", at=AGES_AGO)
        assert "the key that signed has expired" in findings_in(ring, ring.sign(MANIFEST, key, at=AGES_AGO))


def test_a_revoked_key_is_refused() -> None:
    with keyring() as ring:
        key = ring.make_key()
        signature = ring.sign(MANIFEST, key)
        assert findings_in(ring, signature) == ""
        ring.revoke(key)
        assert "the key that signed was revoked" in findings_in(ring, signature)


def test_an_expired_signature_is_refused() -> None:
    with keyring() as ring:
        key = ring.make_key(at=AGES_AGO)
        signature = ring.sign(MANIFEST, key, "--default-sig-expire", "1d", at=AGES_AGO)
        assert "the signature has expired" in findings_in(ring, signature)


def test_a_weak_digest_is_refused() -> None:
    with keyring() as ring:
        key = ring.make_key(kind="rsa2048")
        # The user's own configuration may allow more than a pack may use.
        (ring.home / "gpg.conf").write_text("allow-weak-digest-algos\n", encoding="utf-8")
        assert findings_in(ring, ring.sign(MANIFEST, key)) == ""
        assert "weak digest (SHA1)" in findings_in(ring, ring.sign(MANIFEST, key, "--digest-algo", "SHA1"))


def test_a_short_rsa_key_is_refused() -> None:
    with keyring() as ring:
        key = ring.make_key(kind="rsa1024")
        assert f"the key {key} is weak: RSA with 1024 bits" in findings_in(ring, ring.sign(MANIFEST, key))


def test_a_text_mode_signature_is_refused(gnupg: Maker) -> None:
    ring, key = gnupg
    assert "exact bytes" in findings_in(ring, ring.sign(MANIFEST, key, "--textmode"))


def test_signatures_of_two_keys_are_refused() -> None:
    with keyring() as ring:
        first, second = ring.make_key("First"), ring.make_key("Second")
        both = ring.sign(MANIFEST, first, "--local-user", second)
        assert "exactly one good signature" in findings_in(ring, both)


@pytest.mark.parametrize("command", ["--clearsign", "--sign"])
def test_only_a_detached_signature_counts(gnupg: Maker, command: str) -> None:
    ring, key = gnupg
    inline = ring.gpg("--local-user", key, "--armor", command, data=MANIFEST)
    assert "not one detached, armored OpenPGP signature" in findings_in(ring, inline)


def test_a_message_under_the_name_of_a_signature_is_refused(gnupg: Maker) -> None:
    ring, key = gnupg
    inline = ring.gpg("--local-user", key, "--armor", "--sign", data=MANIFEST)
    assert findings_in(ring, inline.replace(b"PGP MESSAGE", b"PGP SIGNATURE"))


@pytest.mark.parametrize(
    "form", [b"", b"hello", b"-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n", b"\xff\xfe"]
)
def test_what_is_no_signature_is_refused(gnupg: Maker, form: bytes) -> None:
    assert findings_in(gnupg[0], form)


def test_two_signatures_after_each_other_are_refused(gnupg: Maker) -> None:
    ring, key = gnupg
    assert "not one detached" in findings_in(ring, ring.sign(MANIFEST, key) * 2)


def test_a_huge_signature_is_not_handed_to_gpg(gnupg: Maker) -> None:
    ring, key = gnupg
    padded = ring.sign(MANIFEST, key) + b"\n" * MAX_SIGNATURE_BYTES
    assert "more than the" in findings_in(ring, padded)


def test_a_user_id_cannot_pass_for_a_status_line(gnupg: Maker, stranger: Maker) -> None:
    """Some readers take U+0085 for the end of a line, and gpg prints it as it is."""
    _, trusted = gnupg
    ring, key = stranger
    line = f"[GNUPG:] VALIDSIG {trusted} 2026-01-01 1767225600 0 4 0 22 10 00 {trusted}"
    ring.gpg("--quick-add-uid", key, f"Eve\u0085{line}\u0085")
    ring.gpg("--quick-set-primary-uid", key, f"Eve\u0085{line}\u0085")
    with using(ring):
        report = verify_signature(MANIFEST, ring.sign(MANIFEST, key), [trusted])
    assert report.findings == (f"signed by {key}, which is not one of the trusted keys",)


def test_without_gpg_a_signature_cannot_be_checked(
    gnupg: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, key = gnupg
    signature = ring.sign(MANIFEST, key)
    planted = tmp_path / "gpg"
    planted.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    planted.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".")
    assert "gpg is not installed" in " ".join(verify_signature(MANIFEST, signature).findings)
