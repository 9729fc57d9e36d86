"""A new pack in the place of an older one: whole packs only, and never a part of one under the name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pytest_proofpack.common.files import temporary_directory_beside
from pytest_proofpack.errors import ConfigurationError, PackError, VerificationError
from pytest_proofpack.pack.check_files import check_files
from pytest_proofpack.pack.check_manifest import check_manifest
from pytest_proofpack.pack.check_structure import check_structure
from pytest_proofpack.pack.snapshot import take_snapshot
from pytest_proofpack.pack.write import PackResult


def require_own_pack(target: Path, suite: str) -> None:
    """Make sure that a directory is a whole pack of a suite and nothing else, so that nobody misses it.

    Raises:
        ConfigurationError: it is not: a file is missing, changed or none of the pack's.
    """
    problem = "is no directory of files" if target.is_symlink() else _problem(target, suite)
    if problem is not None:
        raise ConfigurationError(
            f"--proofpack-pack-dir: {target} is not empty, and only a whole pack of this run would be replaced: "
            f"{problem}. Move it away, or name another directory."
        )


def replace_pack(write: Callable[[Path], PackResult], target: Path, suite: str) -> PackResult:
    """Write a pack beside an older one of the same suite, and then let it take that one's place.

    Args:
        write: writes a pack into the empty directory that it is given.
        target: the older pack. It is renamed away when the new one is whole, and removed when that has its name.
        suite: name of the suite.

    Raises:
        PackError: the pack could not be written, or the older one cannot be replaced, which is then still there.
        ConfigurationError: there is something else than an older pack.
    """
    require_own_pack(target, suite)
    staged = temporary_directory_beside(target)
    try:
        result = write(staged)
        away = temporary_directory_beside(target)
        _swap(staged, target, away)
    except OSError as error:
        raise PackError(f"the pack {target} could not be replaced ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(away, ignore_errors=True)
    return replace(result, directory=target)


def _swap(new: Path, target: Path, away: Path) -> None:
    """Rename ``target`` onto the empty directory ``away``, and ``new`` to ``target``; undo it if that fails."""
    try:
        target.rename(away)
        new.rename(target)
    except BaseException:  # an interruption too
        if not target.exists():
            away.rename(target)
        raise


def _problem(target: Path, suite: str) -> str | None:
    """Return why a directory is no whole pack of this suite."""
    try:
        outcome, opened = check_manifest(take_snapshot(target), accept_unbound=True)
    except VerificationError as error:
        return str(error).rstrip(".")
    if opened is None:
        return outcome.findings[0]
    findings = check_files(opened).findings or check_structure(opened)[0].findings
    if findings:
        return findings[0]
    if opened.manifest is None:
        return "it binds none of its files"
    if opened.manifest.suite != suite:
        return f"it is of the suite {opened.manifest.suite!a}"
    return None
