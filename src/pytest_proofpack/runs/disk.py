"""The disk that a run needs: looked at before any work, with numbers."""

from __future__ import annotations

from pathlib import Path

from pytest_proofpack.common.files import Space, free_space
from pytest_proofpack.common.words import data_size
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.runs.run import Run

CERTIFICATE_BYTES = 400_000
"""Of a certificate, its copy in the pack and its page there: 260 kB in the embedded suite of 400 windows."""
CERTIFICATE_INODES = 12
"""Of its folders and files, in the run directory and in the pack."""
_BYTES = 1_000_000
_INODES = 60
"""Of whatever there is once: state, reports, presets, the pack's own files."""


def require_space(run: Run) -> None:
    """Make sure that what is still to be written fits where it goes.

    What workers share is not counted: where it finds no room each of them measures, and cuts its text, for itself.

    Raises:
        ConfigurationError: it does not; says how much there is, and how much is needed.
    """
    count, (size, inodes) = len(run.to_be_made), _needed(run)
    places: dict[str, Path] = {"--proofpack-out": run.out}
    if run.pack_dir is not None and not run.pack_dir.is_relative_to(run.out):
        places["--proofpack-pack-dir"] = run.pack_dir
    for option, path in places.items():
        try:
            free = free_space(path)
        except OSError:
            continue  # nobody can tell
        if free.bytes < size or free.inodes < inodes:
            raise ConfigurationError(
                f"{option}: the file system of {path} has {data_size(free.bytes)} and {free.inodes} inodes left, and "
                f"{count} certificates with their pack need about {data_size(size)} and {inodes}. Make room, or name "
                "a directory elsewhere."
            )


def has_room_beside(run: Run, size: int) -> bool:
    """Tell whether so many bytes fit into the run directory beside all that is still to be written."""
    needed = _needed(run)
    try:
        free = free_space(run.out)
    except OSError:
        return False
    return free.bytes >= needed.bytes + size and free.inodes > needed.inodes


def _needed(run: Run) -> Space:
    count = len(run.to_be_made)
    return Space(_BYTES + count * CERTIFICATE_BYTES, _INODES + count * CERTIFICATE_INODES)
