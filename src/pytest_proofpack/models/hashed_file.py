"""One safetensors file whose tensors are read once, for whoever takes them and for the file's digest.

What has been read waits until it is both taken and hashed. Where memory has no room for that, a tensor is read twice:
once for whoever takes it and once for the digest of its file, and both readings have to have the same SHA-256.

A tensor that goes to a GPU as it is waits in no memory but its own: it is hashed from the GPU.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum, auto
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from pytest_proofpack.errors import EvaluationError, FormatError
from pytest_proofpack.models.files import changed_error
from pytest_proofpack.models.pieces import host_pieces, read_onto
from pytest_proofpack.models.safetensors_files import stored_tensors
from pytest_proofpack.models.stored_bytes import PIECE, as_tensor, bytes_of, read_bytes

_TAKEN = "taken"
_HASHED = "hashed"


class _Stage(Enum):
    """How far reading a tensor ahead has come."""

    AHEAD = auto()
    READING = auto()
    HELD = auto()
    LET_GO = auto()


class Room:
    """Bytes of memory that may be held, counted over all threads."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take so many bytes, if they are there."""
        with self._lock:
            fits = size <= self._free
            self._free -= size if fits else 0
        return fits

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._free += size


class HashedFile:
    """One safetensors file: every tensor is read once, for whoever takes it and for the file's digest.

    Attributes:
        path: the file.
        tensors: where its tensors lie, by name.
        metadata: what its header says besides.
        problem: why it can't be used, once that is known.
    """

    def __init__(self, path: Path, room: Room, readers: ThreadPoolExecutor | None, hashers: ThreadPoolExecutor) -> None:
        """Open the file and begin to read it ahead and to hash it.

        Args:
            path: of the file.
            room: what may be held in host memory.
            readers: read ahead; None if every tensor is read when it is taken, and hashed after that.
            hashers: hash.

        Raises:
            EvaluationError: it is no safetensors file any more.
        """
        self.path = path
        self.problem: EvaluationError | None = None
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise changed_error((path,)) from None
        try:
            self._size = os.fstat(self._descriptor).st_size
            self.tensors, self.metadata = stored_tensors(self._descriptor, self._size)
        except (FormatError, OSError):
            os.close(self._descriptor)
            raise changed_error((path,)) from None
        self._room = room
        self._change = threading.Condition()
        self._stages = dict.fromkeys(self.tensors, _Stage.AHEAD)
        self._buffers: dict[str, Tensor] = {}
        self._owed = {name: {_TAKEN, _HASHED} for name in self.tensors}
        self._digests: dict[str, dict[str, set[bytes]]] = {_TAKEN: {}, _HASHED: {}}
        self._stopped = self._left = False
        self._ahead = readers is not None
        if readers is not None:
            for name in self.tensors:
                readers.submit(self._begin, name)
        self._hashers = hashers
        self._hasher = hashers.submit(self._hash)
        self._finisher: Future[str] | None = None

    def take(self, name: str, device: torch.device | None = None) -> Tensor:
        """Return a tensor, which nobody else writes to.

        Args:
            name: of the tensor.
            device: where it is to lie; it is hashed there, so it must not change before :meth:`digest` returns. None
                for host memory, where it lies too if it had been read before.

        Raises:
            EvaluationError: the file was cut short.
        """
        buffer = self._hold(name, device)
        if buffer is None:
            buffer = self._read(self.tensors[name].start, self.tensors[name].end)
            self._note(_TAKEN, name, hashlib.sha256(bytes_of(buffer)).digest())
        self._done(name, _TAKEN)
        return as_tensor(buffer, self.tensors[name])

    def nobody_takes_more(self) -> None:
        """Let go of what was read for nobody as soon as it is hashed, and of the file."""
        with self._change:
            self._left = True
            self._change.notify_all()
        for name in self.tensors:
            self._done(name, _TAKEN)
        self._finisher = self._hashers.submit(self._finish) if not self._stopped else None
        if self._finisher is None:
            self._close()

    def digest(self) -> str:
        """Return the hexadecimal SHA-256 of the file; of every tensor, it is of the bytes that were taken.

        Raises:
            EvaluationError: the file was cut short, or has changed between two readings of a tensor.
        """
        assert self._finisher is not None
        return self._finisher.result()

    def stop(self) -> None:
        """Hash no more."""
        with self._change:
            self._stopped = True
            self._change.notify_all()

    def _finish(self) -> str:
        """Return the digest once the file is hashed and what was read apart from that has been compared; close it."""
        try:
            found = self._hasher.result()
            again = self._digests[_TAKEN].keys() - self._digests[_HASHED].keys()
            if again and self._hash(apart=again) != found:
                self._fail()
            if any(digests != self._digests[_HASHED][name] for name, digests in self._digests[_TAKEN].items()):
                self._fail()
            return found
        finally:
            self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin(self, name: str, device: torch.device | None = None) -> None:
        """Read a tensor if nobody has and there is room to hold it."""
        start, end = self.tensors[name].start, self.tensors[name].end
        with self._change:
            if self._stages[name] is not _Stage.AHEAD or self._stopped:
                return
            held = not _on_host(device) or self._room.take(end - start)
            self._stages[name] = _Stage.READING if held else _Stage.LET_GO
        if not held:
            return
        try:
            self._buffers[name] = self._read(start, end, device)
        finally:
            with self._change:
                self._stages[name] = _Stage.HELD if name in self._buffers else _Stage.LET_GO
                self._change.notify_all()

    def _hold(self, name: str, device: torch.device | None = None) -> Tensor | None:
        """Return a tensor's bytes, read before or now; None where there is no room for them, or no more."""
        self._begin(name, device)
        with self._change:
            self._change.wait_for(lambda: self._stages[name] is not _Stage.READING)
            return self._buffers.get(name)

    def _done(self, name: str, what: str) -> None:
        """Take note that a tensor is taken or hashed; when both are done its bytes are held no longer."""
        with self._change:
            self._owed[name].discard(what)
            if self._owed[name] or (buffer := self._buffers.pop(name, None)) is None:
                return
            self._stages[name] = _Stage.LET_GO
        if _on_host(buffer.device):
            self._room.give(self.tensors[name].end - self.tensors[name].start)

    def _wait_for_taker(self, name: str) -> None:
        """Wait until a tensor has been taken, or nobody will, where it is not read ahead."""
        with self._change:
            stages = self._stages
            self._change.wait_for(
                lambda: self._ahead or self._left or self._stopped or stages[name] is not _Stage.AHEAD
            )

    def _hash(self, apart: Collection[str] = ()) -> str:
        """Return the digest of the file: of the bytes that are held, or else of a reading of its own.

        Args:
            apart: tensors that are read again, with a digest of their own, whatever is held.
        """
        whole = hashlib.sha256()
        begin = next((tensor.start for tensor in self.tensors.values()), self._size)
        whole.update(bytes_of(self._read(0, begin)))
        for name, tensor in self.tensors.items():
            if self._stopped:
                raise changed_error((self.path,))
            self._wait_for_taker(name)
            buffer = None if name in apart else self._hold(name)
            if buffer is not None:
                for part in host_pieces(buffer):
                    whole.update(part)
            else:
                own = hashlib.sha256()
                for start in range(tensor.start, tensor.end, PIECE):
                    piece = bytes_of(self._read(start, min(start + PIECE, tensor.end)))
                    whole.update(piece)
                    own.update(piece)
                self._note(_HASHED, name, own.digest())
            del buffer
            self._done(name, _HASHED)
        return whole.hexdigest()

    def _note(self, what: str, name: str, digest: bytes) -> None:
        with self._change:
            self._digests[what].setdefault(name, set()).add(digest)

    def _read(self, start: int, end: int, device: torch.device | None = None) -> Tensor:
        """Return bytes of the file in memory of their own."""
        try:
            if device is None:
                return read_bytes(self._descriptor, start, end)
            return read_onto(self._descriptor, start, end, device)
        except FormatError:
            self._fail()
        except OSError as error:
            self.problem = EvaluationError(f"{self.path}: can't be read ({error.strerror or error}).")
            raise self.problem from error

    def _fail(self) -> NoReturn:
        self.problem = changed_error((self.path,))
        raise self.problem


def _on_host(device: torch.device | None) -> bool:
    return device is None or device.type == "cpu"
