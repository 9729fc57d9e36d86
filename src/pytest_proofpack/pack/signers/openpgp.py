"""The signer ``openpgp``: a detached signature by a key of the user's GnuPG, made without asking anybody anything."""

from __future__ import annotations

import re
import subprocess  # nosec: only its exception
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.signers.gpg import GpgResult, default_key, empty_home, gpg_binary, no_agent_left, run_gpg
from pytest_proofpack.pack.signers.openpgp_keys import fingerprints_in
from pytest_proofpack.pack.signers.openpgp_verify import FILE, verify_signature
from pytest_proofpack.pack.signers.signer import SignatureReport, Signer

_OUT_OF_FORCE = {"r": "is revoked", "e": "has expired", "d": "is disabled", "i": "is not valid"}
"""What the validity of a key says that cannot sign (GnuPG, doc/DETAILS, field 2)."""
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_OPTIONS = (
    *("--pinentry-mode", "error"),  # a key with a passphrase fails at once instead of asking
    *("--digest-algo", "SHA512"),
    *("--no-textmode", "--default-sig-expire", "0"),  # over the exact bytes, and for good
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
        with no_agent_left():
            made = _signature(_require_gpg(), self.key, manifest)
        if isinstance(made, GpgResult):
            raise PackError(f"gpg signed before and cannot sign any more ({made.reason}). Nothing was packed.")
        report = verify_signature(manifest, made)
        if report.findings or report.fingerprint != self.fingerprint:
            raise PackError(f"gpg made a signature that does not hold: {'; '.join(report.findings)}")
        return {FILE: made}


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


def _require_gpg() -> str:
    gpg = gpg_binary()
    if gpg is None:
        raise PackError("gpg is not installed")
    return gpg


def _find_key(wanted: str | None) -> OpenPgpKey:
    gpg = _require_gpg()
    usable = _usable_keys(gpg, wanted)
    # None is gpg's own choice; --local-user is given all others, as --default-key may fall back to another key.
    candidates = [wanted] if wanted else [default_key(), *usable]
    refused: list[str] = []
    for candidate in candidates:
        made = _signature(gpg, candidate, _TRIAL)
        if isinstance(made, GpgResult):
            refused.append(_refusal(made))
            continue
        report = verify_signature(_TRIAL, made)
        if not report.findings and report.fingerprint:
            return OpenPgpKey(report.fingerprint, candidate)
        refused.append(f"the signatures of gpg's secret key do not hold ({'; '.join(report.findings)})")
    # The last one is that of a key that is surely there.
    raise PackError(refused[-1])


def _refusal(result: GpgResult) -> str:
    if result.needs_passphrase:
        return f"gpg could not use its secret key without asking for a passphrase ({result.reason})"
    return f"gpg could not sign ({result.reason})"


def _usable_keys(gpg: str, wanted: str | None) -> list[str]:
    """List the primary fingerprint of every secret key that can sign and is in force.

    Raises:
        PackError: there is none, or not the one that is wanted; says why.
    """
    listed = _run(gpg, ["--with-colons", "--with-subkey-fingerprint", "--list-secret-keys"])
    usable: list[str] = []
    problems: list[str] = []
    for primary, fingerprints in _secret_keys(listed):
        if wanted is not None and wanted not in fingerprints:
            continue
        problem = _problem(primary)
        if problem is None:
            usable.append(fingerprints[0])
        else:
            problems.append(f"{fingerprints[0]} {problem}")
    if usable:
        return usable
    named = f" {wanted}" if wanted else ""
    reasons = problems or ([] if listed.good or not listed.messages.count("agent") else [listed.reason])
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise PackError(f"gpg has no usable secret key{named} that can sign{why}")


def _secret_keys(listed: GpgResult) -> list[tuple[list[str], list[str]]]:
    """Return the line of every primary key, and its fingerprint and those of its subkeys."""
    keys: list[tuple[list[str], list[str]]] = []
    for fields in listed.colons("sec", "fpr"):
        if fields[0] == "sec":
            keys.append((fields, []))
        elif keys:
            keys[-1][1].append(fields[9])
    return [(primary, fingerprints) for primary, fingerprints in keys if fingerprints and len(primary) > 11]


def _problem(primary: list[str]) -> str | None:
    """Tell why a key cannot sign: from validity, time of its making and capabilities (fields 2, 6 and 12)."""
    validity, made, capabilities = primary[1], primary[5], primary[11]
    if made.isdecimal() and int(made) > time.time():
        return "was made in the future: a clock is wrong, this machine's or that of whoever made the key"
    if validity[:1] in _OUT_OF_FORCE:
        return _OUT_OF_FORCE[validity[:1]]
    if "D" in capabilities:
        return _OUT_OF_FORCE["d"]
    return None if "S" in capabilities else "cannot sign"


def _run(gpg: str, arguments: list[str], data: bytes = b"") -> GpgResult:
    try:
        return run_gpg(gpg, arguments, data)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackError(f"gpg does not run ({type(error).__name__})") from error


def _signature(gpg: str, key: str | None, data: bytes) -> bytes | GpgResult:
    """Return a signature, or what gpg said when it did not make one."""
    chosen = ["--local-user", key] if key else []
    with empty_home() as folder:
        target = Path(folder) / FILE
        result = _run(gpg, [*_OPTIONS, *chosen, "--armor", "--output", str(target), "--detach-sign", "--", "-"], data)
        made = any(line[0] == "SIG_CREATED" for line in result.status)
        return target.read_bytes() if result.good and made and target.is_file() else result


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

    def remedy(self) -> str:
        """Return what to do: without gpg, a key is the second thing that is missing."""
        return self.advice if gpg_binary() is not None else "Install GnuPG"

    def find_key(self, wanted: str | None) -> OpenPgpKey:
        """Find a secret key that can sign, by signing something with it: gpg's default key, then every usable one."""
        with no_agent_left():
            return _find_key(wanted)

    def normal_key(self, text: str, option: str) -> str:
        """Return a fingerprint as 40 (or 64) capital digits."""
        return normal_fingerprint(text, option)

    def keys_in_file(self, data: bytes, option: str) -> tuple[str, ...]:
        """Return the primary fingerprint of every key of a file of public keys, armored or not."""
        return fingerprints_in(data, option)

    def verify(
        self,
        manifest: bytes,
        files: Mapping[str, bytes],
        trusted: Collection[str] = (),
        key_files: Sequence[bytes] = (),
    ) -> SignatureReport:
        """Check a signature with the keys of the files, and then with those of the user's keyring, and no others."""
        return verify_signature(manifest, files[FILE], trusted, key_files)


OPENPGP = OpenPgp()
