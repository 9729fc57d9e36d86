"""What gpg is given of others' signatures and keys: packets that cannot unpack to more than they are."""

from __future__ import annotations

import base64
import subprocess
import zlib

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.signers import openpgp_keys, openpgp_verify
from pytest_proofpack.pack.signers.openpgp_keys import fingerprints_in
from pytest_proofpack.pack.signers.openpgp_packets import key_packets, signature_packet
from pytest_proofpack.pack.signers.openpgp_verify import verify_signature
from pytest_proofpack.pack.signers.signer import SignatureReport
from tests.pack.conftest import Maker
from tests.support.packs import keyring, using

MANIFEST = b'{"format": "proof-pack-v1"}\n'
SIGNATURE = b"\xc2\x03abc"


def packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def armored(data: bytes, kind: str = "SIGNATURE") -> bytes:
    return b"-----BEGIN PGP %b-----\n\n%b-----END PGP %b-----\n" % (
        kind.encode(),
        base64.encodebytes(data),
        kind.encode(),
    )


def compressed(data: bytes) -> bytes:
    return packet(8, b"\x02" + zlib.compress(data))


def packets_of(signature: bytes) -> bytes:
    found = signature_packet(signature)
    assert found is not None
    return found


@pytest.fixture
def no_gpg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every question to gpg be a failure."""

    def asked(*_: object) -> None:
        pytest.fail("gpg was asked")

    monkeypatch.setattr(openpgp_verify, "run_gpg", asked)
    monkeypatch.setattr(openpgp_keys, "run_gpg", asked)


@pytest.mark.usefixtures("no_gpg")
def test_a_compressed_signature_is_not_handed_to_gpg(gnupg: Maker) -> None:
    ring, key = gnupg
    signature = packets_of(ring.sign(MANIFEST, key))
    for form in (compressed(signature * 1000), compressed(compressed(signature)), signature + compressed(signature)):
        findings = verify_signature(MANIFEST, armored(form)).findings
        assert "must hold exactly one good signature: one whole packet" in findings[0]


@pytest.mark.parametrize("kind", ["ed25519", "rsa2048"])
def test_honest_signatures_hold_with_whatever_subpackets_in_whichever_armor(kind: str) -> None:
    with keyring() as ring:
        key = ring.make_key(kind=kind)
        told = ("--sig-notation", f"note@example.org={'n' * 900}", "--sig-policy-url", "https://example.org/p")
        for options in ((), told):
            signed = ring.sign(MANIFEST, key, *options)
            commented = signed.replace(b"\n\n", b"\nVersion: a program\nComment: a comment\n\n", 1)
            without_checksum = armored(packets_of(signed))
            for form in (signed, signed.replace(b"\n", b"\r\n"), commented, without_checksum):
                with using(ring):
                    assert verify_signature(MANIFEST, form, [key]) == SignatureReport(key, True, ())


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (SIGNATURE, True),
        (b"\x88\x03abc", True),  # the older form of a header
        (b"\x89\x00\x03abc", True),
        (b"\xc2\xc0\x08" + b"x" * 200, True),
        (packet(2, b"abc"), True),
        (SIGNATURE * 2, False),
        (SIGNATURE + b"x", False),
        (SIGNATURE[:-1], False),
        (b"\x8babc", False),  # without a length: up to the end
        (b"\xc2\xe0a", False),  # in parts
        (b"\xc2", False),
        (b"\xc2\xff\x00", False),
        (packet(11, b"abc"), False),
    ],
)
def test_one_whole_packet_of_a_signature(data: bytes, is_one: bool) -> None:
    assert signature_packet(armored(data)) == (data if is_one else None)


def test_an_armor_with_another_checksum_is_malformed() -> None:
    good = b"-----BEGIN PGP SIGNATURE-----\n\nwgNhYmM=\n=XdDd\n-----END PGP SIGNATURE-----"
    assert signature_packet(good) is None
    assert signature_packet(good.replace(b"=XdDd\n", b"")) == SIGNATURE


def test_key_files_are_taken_in_every_form_but_compressed(gnupg: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, key = gnupg
    plain, text = ring.gpg("--export", key), ring.gpg("--armor", "--export", key)
    for form in (plain, text, text + text, b"From: the maker\n\n" + text):
        assert set(fingerprints_in(form, "--trusted-key-file")) == {key}
        assert verify_signature(MANIFEST, ring.sign(MANIFEST, key), [key], [form]).pinned
    assert key_packets(plain + b"x") is None
    monkeypatch.setattr(openpgp_keys, "run_gpg", lambda *_: pytest.fail("gpg was asked"))
    for form in (compressed(plain), armored(compressed(plain), "PUBLIC KEY BLOCK")):
        with pytest.raises(ConfigurationError, match="holds no public key of OpenPGP"):
            fingerprints_in(form, "--trusted-key-file")


def test_a_gpg_that_does_not_end_is_stopped_soon_and_said(gnupg: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, key = gnupg
    signature = ring.sign(MANIFEST, key)
    limits = []

    def endless(command: list[str], timeout: float, **_: object) -> None:
        limits.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", endless)
    assert "gpg did not end within 10 s and was stopped. See" in verify_signature(MANIFEST, signature).findings[0]
    assert limits == [10]
