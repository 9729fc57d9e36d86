"""What people and programs do to a file that is in use."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def overwrite(file: Path) -> None:
    """Change bytes near the end through a shared mapping, and set the time of the content back to what it was."""
    before = file.stat()
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapped:
        middle = len(mapped) * 3 // 4
        mapped[middle : middle + 64] = bytes(byte ^ 1 for byte in mapped[middle : middle + 64])
        mapped.flush()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    """Put another file of the same size in its place, with its times."""
    other = file.with_suffix(".other")
    shutil.copy2(file, other)
    overwrite(other)
    shutil.copystat(file, other)
    other.replace(file)


def truncate(file: Path) -> None:
    """Cut it to a third."""
    os.truncate(file, file.stat().st_size // 3)


def append(file: Path, more: bytes = b"more\n") -> None:
    """Write more after its end."""
    with file.open("ab") as stream:
        stream.write(more)


CHANGES: dict[str, Callable[[Path], None]] = {
    "overwritten": overwrite,
    "replaced": replace,
    "truncated": truncate,
    "appended to": append,
}
