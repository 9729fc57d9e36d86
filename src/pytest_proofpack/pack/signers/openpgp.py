"""The signer ``openpgp``: a detached signature by a key of the user's GnuPG, made without asking anybody anything."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.signers.openpgp_verify import FILE, gpg_binary, verify_signature
from pytest_proofpack.pack.signers.signer import SignatureReport, Signer

if TYPE_CHECKING:
    from gnupg import GPG

_UNUSABLE_VALIDITY = frozenset("ired")
"""Validity of a key that is invalid, revoked, expired or disabled (GnuPG, doc/DETAILS, field 2)."""
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_OPTIONS = (
    *("--pinentry-mode", "error"),  # a key with a passphrase fails at once instead of asking
    *("--digest-algo", "SHA512"),
    *("--no-emit-version", "--no-comments", "--disable-signer-uid"),  # no names beyond the key's own
)
_TRIAL = b"pytest-proofpack: a trial signature, kept nowhere\n"


@dataclass(frozen=True)
class OpenPgpKey:
    """A key that has just made a good signature.

    Attributes:
        fingerprint: of the primary key.
        key: what to tell gpg to use; None for gpg's own default key.
    """

    fingerprint: str
    key: str | None

    def sign(self, manifest: bytes) -> Mapping[str, bytes]:
        """Return a detached, armored signature.

        Raises:
            PackError: gpg could not sign, or its signature does not hold.
        """
        signature = _signature(_require_gpg(), self.key, manifest)
        if signature is None:
            raise PackError("gpg signed a moment ago and cannot sign any more; nothing was packed. Run it again.")
        report = verify_signature(manifest, signature)
        if report.findings or report.fingerprint != self.fingerprint:
            raise PackError(f"gpg made a signature that does not hold: {'; '.join(report.findings)}")
        return {FILE: signature}


def normal_fingerprint(text: str, option: str) -> str:
    """Return a fingerprint in capitals without spaces, colons or ``0x``.

    Raises:
        ConfigurationError: it does not have 40 (or, for keys of version 5, 64) hexadecimal digits. Shorter key ids
            are refused: others can be made to match them.
    """
    plain = re.sub(r"[\s:]", "", text).upper().removeprefix("0X")
    if not _FINGERPRINT.fullmatch(plain):
        raise ConfigurationError(
            f"{option}: {text!r} is not a full fingerprint. Give all 40 hexadecimal digits, as "
            "gpg --list-keys --fingerprint shows them."
        )
    return plain


def _require_gpg() -> GPG:
    from gnupg import GPG

    binary = gpg_binary()
    if binary is None:
        raise PackError("gpg is not installed")
    try:
        return GPG(gpgbinary=binary, options=list(_OPTIONS))
    except (OSError, ValueError) as error:
        raise PackError("gpg does not start") from error


def _find_key(wanted: str | None) -> OpenPgpKey:
    gpg = _require_gpg()
    usable = _usable_keys(gpg)
    if wanted is not None and not any(wanted in fingerprints for fingerprints in usable):
        raise PackError(f"gpg has no usable secret key {wanted} that can sign")
    if not usable:
        raise PackError("gpg has no usable secret key that can sign")
    # None is gpg's own choice, which follows default-key of the user's configuration.
    candidates = [wanted] if wanted else [None, *(fingerprints[0] for fingerprints in usable)]
    weak = False
    for candidate in candidates:
        signature = _signature(gpg, candidate, _TRIAL)
        if signature is None:
            continue
        report = verify_signature(_TRIAL, signature)
        if not report.findings and report.fingerprint:
            return OpenPgpKey(report.fingerprint, candidate)
        weak = True
    if weak:
        raise PackError("the signatures of gpg's secret key do not hold (a weak key or digest)")
    raise PackError("gpg could not use its secret key without asking for a passphrase")


def _usable_keys(gpg: GPG) -> list[list[str]]:
    """List the fingerprints (primary first) of every secret key that can sign and is in force."""
    return [
        [key["fingerprint"], *(subkey[2] for subkey in key["subkeys"] if subkey[2])]
        for key in gpg.list_keys(secret=True)
        if key["trust"] not in _UNUSABLE_VALIDITY and "S" in key["cap"] and "D" not in key["cap"]
    ]


def _signature(gpg: GPG, key: str | None, data: bytes) -> bytes | None:
    # --default-key, which python-gnupg would use, silently falls back to another key.
    chosen = ["--local-user", key] if key else []
    result = gpg.sign(data, detach=True, clearsign=False, extra_args=chosen)
    return bytes(result.data) if result.returncode == 0 and result.fingerprint and result.data else None


class OpenPgp(Signer):
    """Keys and keyring are GnuPG's; see :mod:`pytest_proofpack.pack.signers.openpgp_verify` for what is accepted."""

    name = "openpgp"
    files: Mapping[str, str] = {FILE: "detached OpenPGP signature over `manifest.json`"}
    check_by_hand = f"gpg --verify {FILE} manifest.json"
    caution = (
        "that the key's owner signed\n"
        "that file: compare the fingerprint that gpg shows with one you got from the signer by another way."
    )
    advice = "Make a key with gpg --quick-generate-key, unlock it in gpg-agent"

    def find_key(self, wanted: str | None) -> OpenPgpKey:
        """Find a secret key that can sign, by signing something with it: gpg's default key, then every usable one."""
        return _find_key(wanted)

    def normal_key(self, text: str, option: str) -> str:
        """Return a fingerprint as 40 (or 64) capital digits."""
        return normal_fingerprint(text, option)

    def verify(self, manifest: bytes, files: Mapping[str, bytes], trusted: Collection[str] = ()) -> SignatureReport:
        """Check a signature with the keys of the user's keyring, and no others."""
        return verify_signature(manifest, files[FILE], trusted)


OPENPGP = OpenPgp()
