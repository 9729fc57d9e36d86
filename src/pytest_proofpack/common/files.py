"""Files that appear whole or not at all, digests of files, and folder names for model ids."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

from pytest_proofpack.common.shortage import FULL_DISK
from pytest_proofpack.common.words import data_size
from pytest_proofpack.errors import ConfigurationError, StorageError

_UNSAFE = re.compile(r"[^a-z0-9._-]+")
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)
"""How :mod:`tempfile` names what is written beside a file or a directory before it is renamed."""
_READ_SIZE = 1 << 20
_MOST_READERS = 8
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

FileState: TypeAlias = tuple[int, ...]
"""What tells a file that was written or replaced from what it was: device, inode, size, times of content and of inode.

Empty for a file that is not there. The last one nobody sets back by ``os.utime``.
"""


def file_state(file: Path | int) -> FileState:
    """Return the state of a file, by its path or an open descriptor; links are followed."""
    try:
        facts = os.stat(file)  # noqa: PTH116 - of a descriptor too
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def changed_files(states: Mapping[Path, FileState]) -> list[Path]:
    """Return the files that are not any more what they were, by the states that they had then."""
    return [file for file, state in states.items() if file_state(file) != state]


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


def read_several(read: Callable[[_Item], _Found], items: Iterable[_Item]) -> list[_Found]:
    """Return what ``read`` makes of every item, in their order, several read at a time.

    One core hashes at most about 2 GB/s, slower than a large model is loaded.
    """
    with reading_threads() as readers:
        return list(readers.map(read, items))


def reading_threads() -> ThreadPoolExecutor:
    """Return as many threads as make sense for reading and hashing at the same time."""
    return ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1), thread_name_prefix="proofpack-reading")


def temporary_directory_beside(path: Path) -> Path:
    """Make a directory in which ``path`` is prepared, named so that :func:`remove_leftovers` knows it."""
    return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write ``data`` so that readers see the old file or the new one, never a part.

    The data goes to a temporary file beside ``path``, is fsynced and renamed; the folder is made if missing.

    Raises:
        StorageError: it cannot be written; says what is missing, and nothing is left of it.
    """
    raw = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_beside(path, raw)
    except OSError as error:
        raise StorageError(storage_problem(path, error)) from error


def storage_problem(path: Path, error: OSError) -> str:
    """Return in one line why a file or directory cannot be written, and what its file system has left."""
    line = f"{path}: cannot be written ({error.strerror or error})"
    if error.errno not in FULL_DISK:
        return line
    with suppress(OSError):
        space = free_space(path)
        line += f"; its file system has {data_size(space.bytes)} and {space.inodes} inodes left"
    return line


class Space(NamedTuple):
    """What a file system has left for this user: bytes, and files that can be made."""

    bytes: int
    inodes: int


def free_space(path: Path) -> Space:
    """Return what is left where a path is, or will be.

    Raises:
        OSError: nobody can tell.
    """
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    facts = os.statvfs(there)
    counted = facts.f_files > 0  # some file systems make inodes as they go
    return Space(facts.f_bavail * facts.f_frsize, facts.f_favail if counted else sys.maxsize)


def _write_beside(path: Path, raw: bytes) -> None:
    """Write a file of another name, flush it and rename it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def is_leftover(name: str) -> bool:
    """Tell whether this is the name of what a process leaves that is killed while it writes."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left below a folder in the middle of writing: ``.NAME.XXXXXXXX.tmp``.

    Nobody else may be writing there. Links are removed, not followed.
    """
    for path, folders, names in os.walk(folder):
        for name in filter(is_leftover, [*folders, *names]):
            leftover = Path(path, name)
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        folders[:] = [name for name in folders if not is_leftover(name)]


def folder_names(model_ids: Iterable[str]) -> dict[str, str]:
    """Map every model id to a folder name, one-to-one.

    ``mistralai/Mistral-7B-v0.1`` becomes ``mistralai__mistral-7b-v0.1``. Where two ids would share a folder (they
    differ only in case, say), each gets the first eight digits of its own SHA-256 appended; where an id is made up to
    look like such a name, every id gets all 64 digits.
    """
    plain = {model_id: _plain_name(model_id) for model_id in model_ids}
    counts = Counter(plain.values())
    names = {
        model_id: name if counts[name] == 1 else f"{name}-{_digest(model_id)[:8]}" for model_id, name in plain.items()
    }
    if len(set(names.values())) < len(names):
        return {model_id: f"{name}-{_digest(model_id)}" for model_id, name in plain.items()}
    return names


def require_empty_directory(path: Path, option: str, *, besides: Collection[str] = (), advice: str = "") -> None:
    """Make sure that ``path`` can be written and holds nothing.

    Args:
        path: the directory; it is made if missing.
        option: how messages call the option that names it.
        besides: names of what may lie there all the same.
        advice: a sentence for whoever named one that is not empty.

    Raises:
        ConfigurationError: it is a file, is not empty, or cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(entry.name not in besides for entry in path.iterdir())
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"{option}: cannot write to {path} ({error.strerror or error}). Name a directory that you may write to."
        ) from error
    if occupied:
        raise ConfigurationError(
            f"{option}: {path} is not empty, and nothing is ever overwritten. Name a new directory. {advice}".rstrip()
        )


@contextmanager
def no_empty_folders_left(*paths: Path) -> Iterator[None]:
    """Remove, when the context ends, every folder on the way to ``paths`` that was made in it and holds nothing."""
    made = {folder for path in paths for folder in (path, *path.parents) if not folder.exists()}
    try:
        yield
    finally:
        for folder in sorted(made, key=lambda one: len(one.parts), reverse=True):
            with suppress(OSError):  # it holds something, or was never made
                folder.rmdir()


def _digest(model_id: str) -> str:
    return hashlib.sha256(model_id.encode()).hexdigest()


def _plain_name(model_id: str) -> str:
    name = _UNSAFE.sub("-", model_id.lower().replace("/", "__")).strip(".-")
    return name[:120] or "model"
