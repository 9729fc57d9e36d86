"""Checking a detached OpenPGP signature, from gpg's status lines and nothing else.

gpg writes status lines to a stream of their own here. Read from standard error, between messages for people, a key's
user id with an unusual line separator in it could pass for a status line.
"""

from __future__ import annotations

import re
import subprocess  # nosec: only its exception
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pytest_proofpack.common.words import moment
from pytest_proofpack.pack.signers.gpg import (
    CHECK_SECONDS,
    GpgResult,
    empty_home,
    gpg_binary,
    home_or_empty,
    no_answer,
    run_gpg,
)
from pytest_proofpack.pack.signers.openpgp_keys import import_keys
from pytest_proofpack.pack.signers.openpgp_packets import signature_packet
from pytest_proofpack.pack.signers.signer import SignatureReport

FILE = "manifest.json.asc"
"""Where the signature lies in a pack."""
MAX_SIGNATURE_BYTES = 64 * 1024
MAX_AHEAD = timedelta(minutes=10)
"""How far a signature may lie in the future: clocks differ."""
_NOT_ONE = f"{FILE} must hold exactly one good signature: one whole packet of OpenPGP, and nothing beside it"
_BEGIN, _END = b"-----BEGIN PGP SIGNATURE-----", b"-----END PGP SIGNATURE-----"

_STRONG_DIGESTS = {"8": "SHA256", "9": "SHA384", "10": "SHA512", "11": "SHA224"}
_WEAK_DIGESTS = {"1": "MD5", "2": "SHA1", "3": "RIPEMD160"}
_SIZED_ALGORITHMS = {"1": "RSA", "3": "RSA", "17": "DSA"}
_CURVE_ALGORITHMS = {"19": "ECDSA", "22": "EdDSA", "27": "Ed25519", "28": "Ed448"}
_MIN_BITS = 2048
_BINARY_DOCUMENT = "00"
_LAST_SECOND = (1 << 32) - 1
"""OpenPGP has 32 bits for a time (RFC 9580, 3.5)."""

_OFFLINE = (
    "--no-auto-key-retrieve",
    "--no-auto-key-locate",
    "--disable-dirmngr",
    "--no-auto-check-trustdb",
    "--verify-options",
    "no-show-photos",
    "--trust-model",
    "always",
)
_PROBLEMS = {
    "BADSIG": "the signature does not belong to manifest.json: one of the two was changed",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key that signed has expired",
    "REVKEYSIG": "the key that signed was revoked",
    "NODATA": f"{FILE} holds no signature",
    "UNEXPECTED": f"{FILE} holds something that is not a signature",
    "PLAINTEXT": f"{FILE} holds a message, not a detached signature",
}
_ERRORS = {4: "an algorithm that it does not know", 58: "a key or a signature of another time than its clock's"}
"""gpg-error's numbers, err-codes.h.in."""
_KEY_ID = re.compile(r"[0-9A-F]{16,64}")
_Keys = dict[str, tuple[str, int, str]]
"""Validity, size in bits and algorithm of a key and its subkeys, by fingerprint."""


@dataclass(frozen=True)
class _Valid:
    """The fields of a VALIDSIG line that matter (GnuPG, doc/DETAILS)."""

    key: str
    time: datetime
    algorithm: str
    digest: str
    kind: str
    primary: str


@dataclass(frozen=True)
class _Keyring:
    """The keys that a signature is checked with: those in a home folder of gpg, None for the user's."""

    gpg: str
    home: Path | None

    def run(self, *arguments: str, data: bytes = b"") -> GpgResult:
        return run_gpg(self.gpg, [*_OFFLINE, *arguments], data, self.home, CHECK_SECONDS)

    def check(self, signature: Path, data: bytes) -> GpgResult:
        return self.run("--no-armor", "--verify", "--", str(signature), "-", data=data)


def verify_signature(
    manifest: bytes, signature: bytes, trusted: Collection[str] = (), key_files: Sequence[bytes] = ()
) -> SignatureReport:
    """Check a detached signature over ``manifest``.

    Args:
        manifest: the signed bytes.
        signature: the armored signature.
        trusted: primary fingerprints, 40 capital hexadecimal digits; empty: any key of the keyring.
        key_files: public keys that it is checked with; the user's keyring is only asked if it is by none of these.
    """
    form = _form_findings(signature)
    if form:
        return SignatureReport(None, False, tuple(form))
    packet = signature_packet(signature)
    if packet is None:
        return SignatureReport(None, False, (_NOT_ONE,))
    gpg = gpg_binary()
    if gpg is None:
        return SignatureReport(
            None, False, ("the signature cannot be checked: gpg is not installed. Install GnuPG and verify again.",)
        )
    try:
        with empty_home() as folder:
            path = folder / FILE
            path.write_bytes(packet)
            return _verified(gpg, path, manifest, trusted, key_files)
    except (OSError, subprocess.TimeoutExpired) as error:
        return SignatureReport(None, False, (f"the signature cannot be checked: {no_answer(error)}",))


def _verified(
    gpg: str, signature: Path, manifest: bytes, trusted: Collection[str], key_files: Sequence[bytes]
) -> SignatureReport:
    if key_files:
        with empty_home() as home:
            import_keys(gpg, home, key_files)
            keyring = _Keyring(gpg, home)
            result = keyring.check(signature, manifest)
            if not _lacks_key(result):
                return _report(keyring, result, trusted)
    with home_or_empty() as place:
        keyring = _Keyring(gpg, place)
        return _report(keyring, keyring.check(signature, manifest), trusted)


def _form_findings(signature: bytes) -> list[str]:
    """Make sure that this is one armored block and nothing else, before gpg sees it."""
    if len(signature) > MAX_SIGNATURE_BYTES:
        return [f"{FILE}: {len(signature)} bytes, more than the {MAX_SIGNATURE_BYTES} allowed"]
    text = signature.strip()
    whole = text.startswith(_BEGIN) and text.endswith(_END) and text.count(b"-----BEGIN") == text.count(_END) == 1
    if not whole or not text.isascii():
        return [f"{FILE}: not one detached, armored OpenPGP signature"]
    return []


def _report(keyring: _Keyring, result: GpgResult, trusted: Collection[str]) -> SignatureReport:
    findings = _status_findings(result)
    valid = _valid(result.status)
    if valid is None:
        return SignatureReport(None, False, tuple(findings or ["gpg does not call the signature valid"]))
    keys = _keys(keyring, valid.primary)
    findings += _strength_findings(keys, valid)
    if valid.time > datetime.now(UTC) + MAX_AHEAD:
        findings.append(
            f"signed at {moment(valid.time)}, which lies in the future: that clock was wrong, or this one is"
        )
    pinned = valid.primary in trusted
    if trusted and not pinned:
        findings.append(_not_trusted(valid, keys.keys() & set(trusted)))
    return SignatureReport(valid.primary, pinned and not findings, tuple(findings), valid.time)


def _not_trusted(valid: _Valid, trusted_subkeys: Collection[str]) -> str:
    if trusted_subkeys:
        named = ", ".join(sorted(trusted_subkeys))
        return f"{named} is a subkey: the key that signed is {valid.primary}, and that is what has to be trusted"
    return f"signed by {valid.primary}, which is not one of the trusted keys"


def _lacks_key(result: GpgResult) -> bool:
    return any(line[0] == "NO_PUBKEY" for line in result.status)


def _valid(lines: list[list[str]]) -> _Valid | None:
    found = [line for line in lines if line[0] == "VALIDSIG"]
    if len(found) != 1 or len(found[0]) < 11:
        return None
    line = found[0]
    seconds = int(line[3]) if line[3].isdecimal() else 0
    made = datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC)
    return _Valid(key=line[1], time=made, algorithm=line[7], digest=line[8], kind=line[9], primary=line[10])


def _status_findings(result: GpgResult) -> list[str]:
    lines = result.status
    words = [line[0] for line in lines]
    if "NO_PUBKEY" in words:
        # ERRSIG ends with the fingerprint where gpg knows it; NO_PUBKEY has the shorter key id.
        named = [line[-1] for word in ("ERRSIG", "NO_PUBKEY") for line in lines if line[0] == word]
        key = next((name for name in named if _KEY_ID.fullmatch(name)), "unknown")
        return [
            f"signed by key {key}, which is not in your keyring, so the signature cannot be checked. Get the key "
            "from its owner, compare its fingerprint, and give it as --trusted-key-file=KEYFILE, or import it with: "
            "gpg --import KEYFILE"
        ]
    findings = [text for word, text in _PROBLEMS.items() if word in words]
    if not findings and ("ERRSIG" in words or "FAILURE" in words or "ERROR" in words):
        findings = [f"gpg could not check the signature{_error(lines)}"]
    if not findings and any(words.count(word) != 1 for word in ("NEWSIG", "GOODSIG", "VALIDSIG")):
        findings = [f"{FILE} must hold exactly one good signature"]
    return findings


def _error(lines: list[list[str]]) -> str:
    """Return gpg's own number of what went wrong: ``ERRSIG keyid algorithm digest class time reason fingerprint``."""
    numbers = [line[6] for line in lines if line[0] == "ERRSIG" and len(line) > 6]
    numbers += [line[-1] for line in lines if line[0] in {"FAILURE", "ERROR"}]
    found = next((number for number in numbers if number.isdecimal()), None)
    return f" ({_ERRORS.get(int(found) & 0xFFFF, f'its error {int(found) & 0xFFFF}')})" if found else ""


def _strength_findings(keys: _Keys, valid: _Valid) -> list[str]:
    findings = []
    if valid.kind != _BINARY_DOCUMENT:
        findings.append("the signature is not one over a file's exact bytes")
    if valid.digest not in _STRONG_DIGESTS:
        name = _WEAK_DIGESTS.get(valid.digest, f"algorithm {valid.digest}")
        findings.append(f"the signature uses a weak digest ({name})")
    for fingerprint in dict.fromkeys((valid.key, valid.primary)):
        if fingerprint not in keys:
            findings.append(f"the key {fingerprint} cannot be looked at")
            continue
        validity, bits, algorithm = keys[fingerprint]
        if validity in {"r", "e", "i"}:
            findings.append(f"the key {fingerprint} is revoked, expired or invalid")
        if algorithm in _SIZED_ALGORITHMS and bits < _MIN_BITS:
            findings.append(f"the key {fingerprint} is weak: {_SIZED_ALGORITHMS[algorithm]} with {bits} bits")
        elif algorithm not in _SIZED_ALGORITHMS and algorithm not in _CURVE_ALGORITHMS:
            findings.append(f"the key {fingerprint} is of a kind that is not accepted (algorithm {algorithm})")
    return findings


def _keys(keyring: _Keyring, primary: str) -> _Keys:
    """Return validity, size in bits and algorithm of a key and its subkeys, by fingerprint."""
    listed = keyring.run("--with-colons", "--fixed-list-mode", "--with-subkey-fingerprint", "--list-keys", primary)
    keys: _Keys = {}
    current = None
    for fields in listed.colons("pub", "sub", "fpr"):
        if fields[0] != "fpr" and len(fields) > 4:
            current = (fields[1], int(fields[2]) if fields[2].isdecimal() else 0, fields[3])
        elif current is not None and len(fields) > 9:
            keys[fields[9]], current = current, None
    return keys
