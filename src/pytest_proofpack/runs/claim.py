"""Taking a run directory for one session: nothing lies there, or a run to go on with, and nobody else is at it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_proofpack.common.files import (
    is_leftover,
    no_empty_folders_left,
    remove_leftovers,
    require_empty_directory,
)
from pytest_proofpack.errors import ConfigurationError, StorageError
from pytest_proofpack.pack.layout import require_outside_packs
from pytest_proofpack.runs.paths import LOCK, LOGS, MARKER, PACK, REVISIONS, SCENARIOS, SHARED, STATE, TUNED, TUNING
from pytest_proofpack.runs.run import Run

_GO_ON = "To go on with that run: --proofpack-out={run} --proofpack-resume."


def holds_run(out: Path) -> bool:
    """Tell whether a run was begun in a directory."""
    return (out / MARKER).is_file()


def holds_tuning(out: Path) -> bool:
    """Tell whether a run has found, or is finding, parameters of clean edits before it begins."""
    return (out / TUNING).is_dir()


def is_only_begun(out: Path) -> bool:
    """Tell whether a session was killed here before its run was there: in the middle of what a run begins with."""
    if holds_run(out) or not (out / STATE).is_dir() or (out / STATE).is_symlink():
        return False
    first = {path.name for path in (SHARED, SCENARIOS, TUNED, REVISIONS)}
    return all(entry.name in first or is_leftover(entry.name) for entry in (out / STATE).iterdir())


def forget_run(out: Path) -> None:
    """Take back what was written of a run that began in an empty directory; what it has tuned before stays.

    The directory itself is left to whoever claimed it, and in it what others have written there.
    """
    for path in [*(out / STATE).glob("*"), out / LOGS]:
        if path.is_dir() and path != out / TUNING:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink()
    with contextlib.suppress(OSError):  # it holds what was tuned
        (out / STATE).rmdir()


def require_there(out: Path) -> None:
    """Make sure that nobody has deleted a run's directory: what is written then would be no run any more.

    Raises:
        StorageError: somebody has.
    """
    if not holds_run(out):
        raise StorageError(
            f"{out}: was deleted, or moved away, while the run was under way, so nothing is written there any more. "
            "What it held is lost unless it was moved; begin a new run."
        )


def holds_pack(run: Run) -> bool:
    """Tell whether something lies where the run's pack goes by default, and is to go."""
    target = run.out / PACK
    return run.pack_dir == target and target.is_dir() and any(target.iterdir())


def require_apart(path: Path, option: str, *, own: Path | None = None, advice: str = "") -> None:
    """Make sure that a directory to be written lies neither inside a run nor inside a pack.

    A pack with files of others in it does not verify any more, and nobody looks for a run inside another.

    Args:
        path: the directory; it need not be there.
        option: how messages call the option that names it.
        own: the directory of its own run, which it may lie in wherever that is.
        advice: a sentence for whoever named one inside a run, with the run's directory for ``{run}``.

    Raises:
        ConfigurationError: it lies inside of one.
    """
    require_outside_packs(path, option)
    for folder in path.resolve().parents:
        if own is not None and folder == own.resolve():
            return
        if holds_run(folder):
            raise ConfigurationError(
                f"{option}: {path} lies inside the directory of another run, {folder}. Name one elsewhere. "
                f"{advice.format(run=folder)}".rstrip()
            )


@contextlib.contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Make sure that nothing lies where run and pack will go, or a run to go on with, and keep other sessions out.

    A pack in the default place is left to whoever replaces it. If nothing was written when the context ends, no
    directory is left that was not there before.

    Raises:
        ConfigurationError: a directory is not empty or cannot be written, lies inside another run or a pack, or
            another session is at it.
    """
    resumed = run.settings.resume and holds_run(run.out)
    if not resumed:
        require_apart(run.out, "--proofpack-out", advice=_GO_ON)
    if run.pack_dir is not None and run.pack_dir != run.out / PACK:
        require_apart(run.pack_dir, "--proofpack-pack-dir", own=run.out)
    with no_empty_folders_left(run.out, *([] if run.pack_dir is None else [run.pack_dir])):
        if not resumed:
            _require_empty(run)
        with _locked(run.out / LOCK):
            if not resumed:
                _require_empty(run)  # now that nobody else begins here
                remove_leftovers(run.out / STATE)
            if run.pack_dir is not None and not (resumed and holds_pack(run)):
                require_empty_directory(run.pack_dir, "--proofpack-pack-dir")
                run.pack_dir.rmdir()  # the pack appears there by renaming, whole or not at all
            yield


def _require_empty(run: Run) -> None:
    advice = f"It holds no run to go on with: there is no {MARKER}." if run.settings.resume else ""
    only_begun = holds_tuning(run.out) or is_only_begun(run.out)  # tuned, and no further, or not even that
    if not run.settings.resume and (holds_run(run.out) or only_begun):
        advice = "Or go on with the run in it: --proofpack-resume."
    begun = {STATE.name} if run.settings.resume and only_begun else set()
    require_empty_directory(run.out, "--proofpack-out", besides={LOCK, *begun}, advice=advice)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which goes again with the context if there is no run beside it."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigurationError(
            f"--proofpack-out: another session is at work in {path.parent}. Wait for its end, or name another "
            "directory."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"--proofpack-out: {path} cannot be locked ({error.strerror or error}). Name a directory on a file system "
            "that knows locks."
        ) from error
    try:
        yield
    finally:
        if not (holds_run(path.parent) or holds_tuning(path.parent)):
            path.unlink(missing_ok=True)  # while it is held, so that nobody else's is taken away
        lock.release()
