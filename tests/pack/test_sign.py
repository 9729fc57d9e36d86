from __future__ import annotations

import pytest

from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.manifest import Signing
from pytest_proofpack.pack.sign import SigningMode, check_signing, choose_signer
from pytest_proofpack.pack.signers.openpgp import OPENPGP, normal_fingerprint
from tests.pack.conftest import Maker
from tests.support.openpgp import AGES_AGO, Keyring
from tests.support.packs import keyring, using

DATA = b"{}\n"


def reason_in(ring: Keyring) -> str:
    with using(ring):
        signer, signing = choose_signer(SigningMode.AUTO)
    assert signer is None
    assert signing.to_json()["status"] == "unsigned"
    return signing.reason or ""


def test_auto_signs_with_the_key_that_is_there(gnupg: Maker) -> None:
    signer, signing = choose_signer(SigningMode.AUTO)
    assert signer is not None
    assert signing == Signing(gnupg[1], None)
    assert OPENPGP.verify(DATA, signer.sign(DATA), [gnupg[1]]).pinned


def test_off_signs_nothing(gnupg: Maker) -> None:
    assert choose_signer(SigningMode.OFF) == (None, Signing(None, "signing was switched off"))


def test_the_key_can_be_chosen() -> None:
    with keyring() as ring, using(ring):
        keys = [ring.make_key("First"), ring.make_key("Second")]
        for key in keys:
            signer, _ = choose_signer(SigningMode.REQUIRED, key.lower())
            assert signer is not None
            assert OPENPGP.verify(DATA, signer.sign(DATA), [key]).pinned


def test_a_default_key_of_the_users_configuration_is_followed() -> None:
    with keyring() as ring, using(ring):
        ring.make_key("First")
        second = ring.make_key("Second")
        (ring.home / "gpg.conf").write_text(f"default-key {second}\n", encoding="utf-8")
        _, signing = choose_signer(SigningMode.AUTO)
        assert signing.fingerprint == second


def test_a_chosen_key_is_never_replaced_by_another_nor_done_without(gnupg: Maker) -> None:
    absent = "A" * 40
    told = rf"--proofpack-gpg-key={absent}\), but gpg has no usable secret key {absent} that can sign\."
    for find in (choose_signer, check_signing):
        with pytest.raises(PackError, match=told):
            find(SigningMode.AUTO, absent)


@pytest.mark.parametrize("sign", SigningMode)
def test_what_is_no_key_is_told_before_the_work_whatever_is_asked_for(sign: str) -> None:
    with pytest.raises(ConfigurationError, match="--proofpack-gpg-key: 'ABC' is not a full fingerprint"):
        check_signing(sign, "ABC")


def test_without_a_key_auto_says_why_and_required_fails() -> None:
    with keyring() as ring:
        assert reason_in(ring) == "gpg has no usable secret key that can sign"
        with using(ring), pytest.raises(PackError, match="no usable secret key"):
            choose_signer(SigningMode.REQUIRED)


def test_a_public_key_alone_signs_nothing(maker: Maker) -> None:
    with keyring() as ring:
        maker[0].copy_public_keys_to(ring)
        assert "no usable secret key" in reason_in(ring)


def test_a_key_with_a_passphrase_fails_at_once_instead_of_asking() -> None:
    with keyring() as ring:
        ring.gpg("--passphrase", "secret", "--quick-generate-key", "Locked <l@example.org>", "ed25519", "sign")
        ring.close_agent()
        assert "without asking for a passphrase" in reason_in(ring)


def test_a_locked_key_leaves_the_next_one_to_sign() -> None:
    with keyring() as ring, using(ring):
        ring.gpg("--passphrase", "secret", "--quick-generate-key", "Locked <l@example.org>", "ed25519", "sign")
        open_key = ring.make_key("Open")
        ring.close_agent()
        _, signing = choose_signer(SigningMode.AUTO)
        assert signing.fingerprint == open_key


@pytest.mark.parametrize("state", ["expired", "revoked"])
def test_a_key_out_of_force_signs_nothing(state: str) -> None:
    with keyring() as ring:
        key = ring.make_key(expires="1y", at=AGES_AGO) if state == "expired" else ring.make_key()
        if state == "revoked":
            ring.revoke(key)
        assert "no usable secret key" in reason_in(ring)
        with using(ring), pytest.raises(PackError, match="no usable secret key"):
            choose_signer(SigningMode.AUTO, key)


def test_a_key_whose_signatures_would_be_refused_signs_nothing() -> None:
    with keyring() as ring:
        ring.make_key(kind="rsa1024")
        assert "do not hold" in reason_in(ring)


def test_without_gpg_auto_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert choose_signer(SigningMode.AUTO)[1].reason == "gpg is not installed"
    with pytest.raises(PackError, match=r"gpg is not installed\. Nothing was packed\. Install GnuPG, or use"):
        choose_signer(SigningMode.REQUIRED)


@pytest.mark.parametrize("form", ["{}", "0x{}", "  {}  ", "{} "])
def test_fingerprints_are_brought_into_one_form(form: str) -> None:
    spaced = "abcd 0123 " * 5
    assert normal_fingerprint(form.format(spaced), "--key") == "ABCD0123" * 5


@pytest.mark.parametrize("text", ["", "ABCD0123", "G" * 40, "A" * 39, "maker@example.org"])
def test_what_is_no_full_fingerprint_is_a_usage_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--key"):
        normal_fingerprint(text, "--key")
