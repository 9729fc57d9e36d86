"""A file's bytes in memory of this process, for a reader that wants a path and maps what it finds there.

The memory is a file without a name (``memfd``), sealed once it is filled: nobody writes to it or cuts it short, this
process included. It is hashed on its way there, so that what is read of it is what the digest is of.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from pytest_proofpack.common.files import file_state

_PIECE = 16 << 20
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class PrivateCopy:
    """A copy of a file, or of how it begins; a context that ends with it.

    Attributes:
        descriptor: of the copy.
        path: of the copy, for this process alone and as long as it is open.
        sha256: of the bytes that were copied, hexadecimal.
        state: of the file when it was opened; see :func:`pytest_proofpack.common.files.file_state`.
    """

    def __init__(self, file: Path, begin: int | None = None) -> None:
        """Copy a file.

        Args:
            file: the file.
            begin: how many bytes of it to copy; as many zeros follow as it is longer, which take no memory. None copies
                all of it.

        Raises:
            OSError: it cannot be read, or there is no memory for it.
        """
        source = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.state = file_state(source)
            self.descriptor = os.memfd_create("proofpack", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                self.sha256 = self._fill(source, begin)
            except BaseException:
                self.close()
                raise
        finally:
            os.close(source)
        self.path = Path(f"/proc/self/fd/{self.descriptor}")

    def close(self) -> None:
        """Give the memory back once nobody maps it any more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> PrivateCopy:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _fill(self, source: int, begin: int | None) -> str:
        size = os.fstat(source).st_size
        wanted, done, digest = size if begin is None else min(begin, size), 0, hashlib.sha256()
        buffer = memoryview(bytearray(min(_PIECE, max(wanted, 1))))
        while done < wanted:
            count = os.preadv(source, [buffer[: wanted - done]], done)
            if count == 0:
                break  # cut short meanwhile; whoever asked sees it by the digest, or by the header
            digest.update(buffer[:count])
            _write(self.descriptor, buffer[:count])
            done += count
        os.ftruncate(self.descriptor, size)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return digest.hexdigest()


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
