"""Reading files within bounds: those of a directory that somebody else made, and those that a user names.

In the directory of a run, a shard or a pack nothing is read but regular files, each to a limit, and no link below it is
followed: a pipe would be waited for, a device never ends, and a link shows what lies elsewhere.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG

FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""A pipe that is opened so is not waited for."""
FOLDER_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_LINKED = frozenset({errno.ELOOP, errno.EMLINK})
"""What systems say of a link that is not to be followed."""


class UnfitFileError(OSError):
    """What was opened is not read: it is no regular file, or longer than is allowed. ``strerror`` says which."""


def read_named(path: Path, limit: int) -> bytes:
    """Return what a file holds that a user names, ``limit`` + 1 bytes at most. Links and pipes will do.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return stream.read(limit + 1)


def read_regular(path: Path, limit: int, *, below: Path | None = None) -> bytes:
    """Return what a regular file holds.

    Args:
        path: the file.
        limit: how many bytes it may have.
        below: a directory that somebody else made and the file lies in: no link below it is followed.

    Raises:
        UnfitFileError: it is none, or longer.
        OSError: it cannot be opened or read.
        ValueError: the path is none, or not below that directory.
    """
    with _opened(path, below) as descriptor:
        return read_descriptor(descriptor, limit)


def read_head(path: Path, size: int, *, below: Path) -> bytes:
    """Return the first bytes of a regular file; see :func:`read_regular`."""
    with _opened(path, below) as descriptor:
        _size_of_regular(descriptor)
        return os.read(descriptor, size)


def is_regular(path: Path, below: Path) -> bool:
    """Tell whether there is a regular file, on a way without links below a directory."""
    try:
        with _opened(path, below) as descriptor:
            _size_of_regular(descriptor)
    except (OSError, ValueError):
        return False
    return True


def read_descriptor(descriptor: int, limit: int) -> bytes:
    """Return what an open file holds. What was listed may have been replaced; what counts is what is open now.

    Raises:
        UnfitFileError: it is no regular file, or longer than ``limit`` bytes.
        OSError: it cannot be read.
    """
    size = _size_of_regular(descriptor)
    if size > limit:
        raise UnfitFileError(errno.EFBIG, f"{size} bytes, more than the {limit} allowed")
    data = os.read(descriptor, size + 1)
    if len(data) == size:
        return data
    parts = [data]  # a read may be cut short, and a file may grow
    while parts[-1] and sum(map(len, parts)) <= limit:
        parts.append(os.read(descriptor, limit + 1))
    data = b"".join(parts)
    if len(data) > limit:
        raise UnfitFileError(errno.EFBIG, f"grows while it is read, beyond the {limit} bytes allowed")
    return data


def _size_of_regular(descriptor: int) -> int:
    facts = os.fstat(descriptor)
    if S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not S_ISREG(facts.st_mode):
        raise UnfitFileError(errno.EINVAL, "not a regular file")
    return facts.st_size


@contextmanager
def _opened(path: Path, below: Path | None) -> Iterator[int]:
    """Hold a file open, reached from ``below`` folder by folder."""
    if below is None:
        descriptor = os.open(path, FILE_FLAGS)
    else:
        *folders, name = path.relative_to(below).parts or (".",)
        parent = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                inner = _open_below(folder, FOLDER_FLAGS, parent)
                os.close(parent)
                parent = inner
            descriptor = _open_below(name, FILE_FLAGS | os.O_NOFOLLOW, parent)
        finally:
            os.close(parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_below(name: str, flags: int, parent: int) -> int:
    if name == "..":
        raise UnfitFileError(errno.EINVAL, "leads out of its directory")
    try:
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:
        # Of a link in the place of a folder Linux says that it is none.
        link = error.errno in _LINKED or (error.errno == errno.ENOTDIR and _is_link(name, parent))
        if link:
            raise UnfitFileError(errno.ELOOP, "a symbolic link, and none is followed there") from error
        raise


def _is_link(name: str, parent: int) -> bool:
    try:
        return bool(os.readlink(name, dir_fd=parent))
    except OSError:
        return False
