"""A file with limits of one's own: the table ``[limits]`` of a suite, or of a file that holds nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pytest_proofpack.common.reading import read_named
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError

_MAX_BYTES = 1 << 20


def read_limits_file(path: Path, option: str) -> JsonObject:
    """Return what a TOML file has under ``[limits]``, as it stands there.

    Args:
        path: the file.
        option: how messages call the option that names it.

    Raises:
        ConfigurationError: it cannot be read, is not TOML, or has no such table.
    """
    try:
        raw = read_named(path, _MAX_BYTES)
        document = tomllib.loads(raw.decode()) if len(raw) <= _MAX_BYTES else {}
    except OSError as error:
        raise ConfigurationError(f"{option}={path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{option}={path}: is not valid TOML: {error}") from error
    limits = document.get("limits")
    if not isinstance(limits, dict) or not limits:
        raise ConfigurationError(f"{option}={path}: has no table [limits], such as primary_metric.ratio_limit = 1.05")
    return limits
