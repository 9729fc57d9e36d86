"""Public keys of OpenPGP from a file, used without the user's keyring and without a trace in it."""

from __future__ import annotations

import subprocess  # nosec: only its exception
from collections.abc import Sequence
from pathlib import Path

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.signers.gpg import CHECK_SECONDS, empty_home, gpg_binary, no_answer, run_gpg
from pytest_proofpack.pack.signers.openpgp_packets import key_packets

MAX_KEY_BYTES = 1 << 20
_SHOW = ("--no-armor", "--with-colons", "--show-keys")
_IMPORT = ("--no-armor", "--no-auto-check-trustdb", "--trust-model", "always", "--import")
_NO_KEY = "holds no public key of OpenPGP. Make it with: gpg --armor --export FINGERPRINT > FILE"


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
    packets = key_packets(data)
    if packets is None:
        raise ConfigurationError(f"{option}: {_NO_KEY}")
    with empty_home() as home:
        try:
            shown = run_gpg(gpg, [*_SHOW, "--", "-"], packets, home, CHECK_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(f"{option}: {no_answer(error)}.") from error
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
        raise ConfigurationError(f"{option}: {_NO_KEY}")
    return tuple(found)


def import_keys(gpg: str, home: Path, key_files: Sequence[bytes]) -> None:
    """Import the keys of files into a home folder that is thrown away afterwards.

    Raises:
        OSError, subprocess.TimeoutExpired: gpg does not start or does not end.
    """
    for data in key_files:
        packets = key_packets(data)
        if packets is not None:
            run_gpg(gpg, [*_IMPORT, "--", "-"], packets, home, CHECK_SECONDS)
