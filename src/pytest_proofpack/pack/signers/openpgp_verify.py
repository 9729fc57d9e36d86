"""Checking a detached OpenPGP signature, from gpg's status lines and nothing else.

gpg writes status lines to a stream of their own here. Read from standard error, between messages for people, a key's
user id with an unusual line separator in it could pass for a status line.
"""

from __future__ import annotations

import re
import shutil
import subprocess  # nosec: gpg, by absolute path, without a shell
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pytest_proofpack.pack.signers.signer import SignatureReport

FILE = "manifest.json.asc"
"""Where the signature lies in a pack."""
MAX_SIGNATURE_BYTES = 64 * 1024
TIMEOUT_SECONDS = 60
_BEGIN, _END = b"-----BEGIN PGP SIGNATURE-----", b"-----END PGP SIGNATURE-----"

_STRONG_DIGESTS = {"8": "SHA256", "9": "SHA384", "10": "SHA512", "11": "SHA224"}
_WEAK_DIGESTS = {"1": "MD5", "2": "SHA1", "3": "RIPEMD160"}
_SIZED_ALGORITHMS = {"1": "RSA", "3": "RSA", "17": "DSA"}
_CURVE_ALGORITHMS = {"19": "ECDSA", "22": "EdDSA", "27": "Ed25519", "28": "Ed448"}
_MIN_BITS = 2048
_BINARY_DOCUMENT = "00"

_OFFLINE = (
    "--batch",
    "--no-tty",
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
_KEY_ID = re.compile(r"[0-9A-F]{16,64}")


@dataclass(frozen=True)
class _Valid:
    """The fields of a VALIDSIG line that matter (GnuPG, doc/DETAILS)."""

    key: str
    algorithm: str
    digest: str
    kind: str
    primary: str


def verify_signature(manifest: bytes, signature: bytes, trusted: Collection[str] = ()) -> SignatureReport:
    """Check a detached signature over ``manifest`` with the keys of the user's keyring, and no others.

    Args:
        manifest: the signed bytes.
        signature: the armored signature.
        trusted: primary fingerprints, 40 capital hexadecimal digits; empty: any key of the keyring.
    """
    form = _form_findings(signature)
    if form:
        return SignatureReport(None, False, tuple(form))
    gpg = gpg_binary()
    if gpg is None:
        return SignatureReport(
            None, False, ("the signature cannot be checked: gpg is not installed. Install GnuPG and verify again.",)
        )
    try:
        lines = _status_lines(gpg, manifest, signature)
    except (OSError, subprocess.TimeoutExpired) as error:
        return SignatureReport(None, False, (f"the signature cannot be checked: gpg failed ({type(error).__name__})",))
    findings = _status_findings(lines)
    valid = _valid(lines)
    if valid is None:
        return SignatureReport(None, False, tuple(findings or ["gpg does not call the signature valid"]))
    findings += _strength_findings(gpg, valid)
    pinned = valid.primary in trusted
    if trusted and not pinned:
        findings.append(f"signed by {valid.primary}, which is not one of the trusted keys")
    return SignatureReport(valid.primary, pinned and not findings, tuple(findings))


def gpg_binary() -> str | None:
    """Return the absolute path of gpg, or None. A program of that name in the working directory does not count."""
    found = shutil.which("gpg")
    return found if found and Path(found).is_absolute() else None


def _form_findings(signature: bytes) -> list[str]:
    """Make sure that this is one armored block and nothing else, before gpg sees it."""
    if len(signature) > MAX_SIGNATURE_BYTES:
        return [f"{FILE}: {len(signature)} bytes, more than the {MAX_SIGNATURE_BYTES} allowed"]
    text = signature.strip()
    whole = text.startswith(_BEGIN) and text.endswith(_END) and text.count(b"-----BEGIN") == text.count(_END) == 1
    if not whole or not text.isascii():
        return [f"{FILE}: not one detached, armored OpenPGP signature"]
    return []


def _run(gpg: str, arguments: list[str], data: bytes = b"") -> bytes:
    return subprocess.run(  # noqa: S603
        [gpg, *_OFFLINE, *arguments], input=data, capture_output=True, timeout=TIMEOUT_SECONDS, check=False
    ).stdout


def _status_lines(gpg: str, manifest: bytes, signature: bytes) -> list[list[str]]:
    with tempfile.TemporaryDirectory(prefix="proofpack-") as folder:
        path = Path(folder) / "signature.asc"
        path.write_bytes(signature)
        output = _run(gpg, ["--status-fd", "1", "--verify", "--", str(path), "-"], manifest)
    # Lines end in b"\n" only: str.splitlines knows nine more separators, which a user id may contain.
    lines = [line.decode("utf-8", "replace").split(" ") for line in output.split(b"\n")]
    return [line[1:] for line in lines if line[0] == "[GNUPG:]" and len(line) > 1]


def _valid(lines: list[list[str]]) -> _Valid | None:
    found = [line for line in lines if line[0] == "VALIDSIG"]
    if len(found) != 1 or len(found[0]) < 11:
        return None
    line = found[0]
    return _Valid(key=line[1], algorithm=line[7], digest=line[8], kind=line[9], primary=line[10])


def _status_findings(lines: list[list[str]]) -> list[str]:
    words = [line[0] for line in lines]
    if "NO_PUBKEY" in words:
        # ERRSIG ends with the fingerprint where gpg knows it; NO_PUBKEY has the shorter key id.
        named = [line[-1] for word in ("ERRSIG", "NO_PUBKEY") for line in lines if line[0] == word]
        key = next((name for name in named if _KEY_ID.fullmatch(name)), "unknown")
        return [
            f"signed by key {key}, which is not in your keyring, so the signature cannot be checked. Get the key "
            "from its owner, compare its fingerprint, and import it with: gpg --import KEYFILE"
        ]
    findings = [text for word, text in _PROBLEMS.items() if word in words]
    if not findings and ("ERRSIG" in words or "FAILURE" in words or "ERROR" in words):
        findings = ["gpg could not check the signature"]
    if not findings and any(words.count(word) != 1 for word in ("NEWSIG", "GOODSIG", "VALIDSIG")):
        findings = [f"{FILE} must hold exactly one good signature"]
    return findings


def _strength_findings(gpg: str, valid: _Valid) -> list[str]:
    findings = []
    if valid.kind != _BINARY_DOCUMENT:
        findings.append("the signature is not one over a file's exact bytes")
    if valid.digest not in _STRONG_DIGESTS:
        name = _WEAK_DIGESTS.get(valid.digest, f"algorithm {valid.digest}")
        findings.append(f"the signature uses a weak digest ({name})")
    keys = _keys(gpg, valid.primary)
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


def _keys(gpg: str, primary: str) -> dict[str, tuple[str, int, str]]:
    """Return validity, size in bits and algorithm of a key and its subkeys, by fingerprint."""
    output = _run(gpg, ["--with-colons", "--fixed-list-mode", "--with-subkey-fingerprint", "--list-keys", primary])
    keys: dict[str, tuple[str, int, str]] = {}
    current = None
    for line in output.split(b"\n"):
        fields = line.decode("utf-8", "replace").split(":")
        if fields[0] in {"pub", "sub"} and len(fields) > 4:
            current = (fields[1], int(fields[2]) if fields[2].isdecimal() else 0, fields[3])
        elif fields[0] == "fpr" and current is not None and len(fields) > 9:
            keys[fields[9]], current = current, None
    return keys
