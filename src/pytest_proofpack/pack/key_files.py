"""Files of public keys that a verifier trusts: read before anything of a pack is."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from pytest_proofpack.common.reading import read_named
from pytest_proofpack.errors import ConfigurationError

_MOST_BYTES = 1 << 20


def read_key_files(paths: Iterable[str | PathLike[str]], option: str) -> tuple[bytes, ...]:
    """Return what the files hold.

    Raises:
        ConfigurationError: one cannot be read, or is too large for a key; ``option`` says where it was named.
    """
    return tuple(_read(Path(path).expanduser(), option) for path in paths)


def _read(path: Path, option: str) -> bytes:
    try:
        data = read_named(path, _MOST_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{option}={path}: cannot be read ({error.strerror})") from error
    if len(data) > _MOST_BYTES:
        raise ConfigurationError(f"{option}={path}: more than {_MOST_BYTES} bytes; no key is so large")
    return data
