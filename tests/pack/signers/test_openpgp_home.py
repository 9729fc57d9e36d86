"""What gpg finds in a user's home folder, and what it leaves there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.key_files import read_key_files
from pytest_proofpack.pack.sign import SigningMode, choose_signer
from pytest_proofpack.pack.signers import gpg
from pytest_proofpack.pack.signers.openpgp import OPENPGP
from pytest_proofpack.pack.signers.openpgp_keys import MAX_KEY_BYTES
from pytest_proofpack.pack.signers.openpgp_verify import FILE, verify_signature
from tests.pack.conftest import Maker
from tests.support.openpgp import Keyring
from tests.support.packs import keyring, using

DATA = b'{"format": "proof-pack-v1"}\n'
HOSTILE = """\
textmode
throw-keyids
no-emit-version
comment "from the configuration"
sig-notation spoilt@example.org=yes
default-sig-expire 1d
digest-algo SHA1
personal-digest-preferences SHA1
weak-digest SHA512
output elsewhere.asc
faked-system-time 20300101T000000
local-user {other}
default-key {key}
"""


def signature_in(ring: Keyring, key: str | None = None) -> bytes:
    with using(ring):
        found, _ = choose_signer(SigningMode.REQUIRED, key)
        assert found is not None
        return found.sign(DATA)[FILE]


def agent_runs(ring: Keyring) -> bool:
    asked = ["gpg-connect-agent", "--no-autostart", "GETINFO pid", "/bye"]
    return bool(subprocess.run(asked, env=ring.environment, capture_output=True, check=False).stdout)


class TestConfiguration:
    def test_nothing_in_it_changes_a_signature_but_the_default_key(self) -> None:
        with keyring() as ring:
            other, key = ring.make_key("Other"), ring.make_key("Key")
            (ring.home / "gpg.conf").write_text(HOSTILE.format(other=other, key=key), encoding="utf-8")
            signature = signature_in(ring)
            with using(ring):
                report = verify_signature(DATA, signature, [key])
        assert (report.pinned, report.findings) == (True, ())
        assert not Path("elsewhere.asc").exists()

    def test_a_broken_line_spoils_neither_signing_nor_checking(self) -> None:
        with keyring() as ring:
            key = ring.make_key()
            (ring.home / "gpg.conf").write_text("no-such-option\n", encoding="utf-8")
            signature = signature_in(ring)
            with using(ring):
                assert verify_signature(DATA, signature, [key]).pinned


class TestReasons:
    """Each says what is wrong, and none has a path in it."""

    def reason(self, ring: Keyring) -> str:
        with using(ring), pytest.raises(PackError) as raised:
            OPENPGP.find_key(None)
        text = str(raised.value)
        assert str(ring.home) not in text
        return text

    def test_a_locked_key(self) -> None:
        with keyring() as ring:
            ring.gpg("--passphrase", "secret", "--quick-generate-key", "Locked <l@example.org>", "ed25519", "sign")
            ring.close_agent()
            assert "without asking for a passphrase (gpg says: No pinentry)" in self.reason(ring)

    def test_a_clock(self) -> None:
        with keyring() as ring:
            key = ring.make_key(at="20400101T000000")
            assert f"({key} was made in the future: a clock is wrong" in self.reason(ring)

    def test_an_expired_key(self) -> None:
        with keyring() as ring:
            key = ring.make_key(expires="1d", at="20200601T000000")
            assert f"({key} has expired)" in self.reason(ring)

    def test_a_path_too_long_for_a_socket(self) -> None:
        with keyring() as ring:
            ring.make_key()
            ring.close_agent()
            home = ring.home / ("x" * 110)
            home.mkdir(mode=0o700)
            for name in ("pubring.kbx", "private-keys-v1.d", "trustdb.gpg"):
                (ring.home / name).rename(home / name)
            ring.home, short = home, ring.home
            try:
                assert "cannot reach its agent: the path of its socket has" in self.reason(ring)
            finally:
                ring.home = short


class TestWhatIsLeft:
    def test_no_agent_that_was_not_there_before(self) -> None:
        with keyring() as ring:
            ring.make_key()
            ring.close_agent()
            signature_in(ring)
            assert not agent_runs(ring)

    def test_an_agent_that_was_there_stays(self) -> None:
        with keyring() as ring:
            ring.make_key()
            assert agent_runs(ring)
            signature_in(ring)
            assert agent_runs(ring)

    def test_checking_makes_no_home_folder(self, gnupg: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ring, key = gnupg
        signature = ring.sign(DATA, key)
        monkeypatch.delenv("GNUPGHOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert "not in your keyring" in " ".join(verify_signature(DATA, signature).findings)
        assert choose_signer(SigningMode.AUTO)[1].reason == "gpg has no usable secret key that can sign"
        assert not list(tmp_path.iterdir())


class TestKeysFromAFile:
    def public(self, ring: Keyring, key: str, *form: str) -> bytes:
        return ring.gpg(*form, "--export", key)

    @pytest.mark.parametrize("form", [["--armor"], []], ids=["armored", "binary"])
    def test_it_pins_without_any_keyring(
        self, gnupg: Maker, form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ring, key = gnupg
        signature, file = ring.sign(DATA, key), self.public(ring, key, *form)
        monkeypatch.setenv("GNUPGHOME", str(tmp_path / "none"))
        demands = Demands(key_files=(file,))
        assert demands.trusted_keys == (key,)
        assert demands.signed
        report = OPENPGP.verify(DATA, {FILE: signature}, demands.trusted_keys, demands.key_files)
        assert (report.pinned, report.findings) == (True, ())
        assert not (tmp_path / "none").exists()

    def test_another_key_of_the_keyring_is_refused(self, gnupg: Maker, stranger: Maker) -> None:
        ring, key = gnupg
        demands = Demands(key_files=(self.public(stranger[0], stranger[1]),))
        report = verify_signature(DATA, ring.sign(DATA, key), demands.trusted_keys, demands.key_files)
        assert report.findings == (f"signed by {key}, which is not one of the trusted keys",)

    def test_a_key_named_beside_it_is_looked_for_in_the_keyring(self, gnupg: Maker, stranger: Maker) -> None:
        ring, key = gnupg
        demands = Demands((key,), key_files=(self.public(stranger[0], stranger[1]),))
        assert verify_signature(DATA, ring.sign(DATA, key), demands.trusted_keys, demands.key_files).pinned

    def test_a_secret_key_is_refused(self, gnupg: Maker) -> None:
        ring, key = gnupg
        with pytest.raises(ConfigurationError, match="trusted key file: holds a secret key"):
            Demands(key_files=(ring.gpg("--armor", "--export-secret-keys", key),))

    @pytest.mark.parametrize("data", [b"", b"not a key", b"\0" * (MAX_KEY_BYTES + 1)], ids=["empty", "text", "huge"])
    def test_what_holds_no_key_is_a_usage_error(self, data: bytes) -> None:
        with pytest.raises(ConfigurationError, match="trusted key file: "):
            Demands(key_files=(data,))

    def test_a_file_that_is_not_there_is_a_usage_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"--trusted-key-file=.*none: cannot be read"):
            read_key_files([tmp_path / "none"], "--trusted-key-file")


class TestTime:
    def test_it_is_told(self, gnupg: Maker) -> None:
        ring, key = gnupg
        time = verify_signature(DATA, ring.sign(DATA, key)).time
        assert time is not None
        assert time.year >= 2024

    def test_one_in_the_future_is_refused(self, gnupg: Maker) -> None:
        ring, key = gnupg
        report = verify_signature(DATA, ring.sign(DATA, key, at="20390101T000000"), [key])
        assert not report.pinned
        assert report.findings == (
            "signed at 2039-01-01T00:00:00Z, which lies in the future: that clock was wrong, or this one is",
        )


def test_a_trusted_subkey_is_answered_with_its_primary_key() -> None:
    with keyring() as ring:
        primary = ring.make_key()
        ring.gpg("--quick-add-key", primary, "ed25519", "sign", "never")
        subkey = ring.gpg("--list-keys", "--with-colons", "--with-subkey-fingerprint").decode().split("sub:")[1]
        fingerprint = subkey.split("fpr:::::::::")[1][:40]
        with using(ring):
            report = verify_signature(DATA, ring.sign(DATA, primary), [fingerprint])
    assert report.findings == (
        f"{fingerprint} is a subkey: the key that signed is {primary}, and that is what has to be trusted",
    )


def test_gpg_is_run_without_a_configuration_every_time() -> None:
    assert gpg._ALWAYS[0] == "--no-options"
