"""Public keys of OpenPGP from a file, used without the user's keyring and without a trace in it."""

from __future__ import annotations

import subprocess  # nosec: only its exception
from collections.abc import Sequence
from pathlib import Path

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.signers.gpg import empty_home, gpg_binary, run_gpg

MAX_KEY_BYTES = 1 << 20


def fingerprints_in(data: bytes, option: str) -> tuple[str, ...]:
    """Return the primary fingerprint of every key of a file.

    Raises:
        ConfigurationError: it holds no public key, or a secret one, or gpg cannot look at it; ``option`` names it.
    """
    gpg = gpg_binary()
    if gpg is None:
        raise ConfigurationError(f"{option}: gpg is needed to read a key, and is not installed. Install GnuPG.")
    if len(data) > MAX_KEY_BYTES:
        raise ConfigurationError(f"{option}: {len(data)} bytes, more than the {MAX_KEY_BYTES} of any key file.")
    with empty_home() as home:
        try:
            shown = run_gpg(gpg, ["--with-colons", "--show-keys", "--", "-"], data, home)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(f"{option}: gpg failed ({type(error).__name__}).") from error
    if any(shown.colons("sec")):
        raise ConfigurationError(
            f"{option}: holds a secret key. Export the public one: gpg --armor --export FINGERPRINT > FILE"
        )
    found, wanted = [], False
    for fields in shown.colons("pub", "sub", "fpr"):
        if fields[0] == "fpr" and wanted:
            found.append(fields[9])
        wanted = fields[0] == "pub"
    if not found:
        raise ConfigurationError(
            f"{option}: holds no public key of OpenPGP. Make it with: gpg --armor --export FINGERPRINT > FILE"
        )
    return tuple(found)


def import_keys(gpg: str, home: Path, key_files: Sequence[bytes]) -> None:
    """Import the keys of files into a home folder that is thrown away afterwards.

    Raises:
        OSError, subprocess.TimeoutExpired: gpg does not start or does not end.
    """
    for data in key_files:
        run_gpg(gpg, ["--no-auto-check-trustdb", "--trust-model", "always", "--import", "--", "-"], data, home)
