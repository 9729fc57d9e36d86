"""Weights read once: the bytes that become a model's tensors are those that its digest is of.

transformers maps a checkpoint's files into memory. Whoever writes to such a file changes a model that is being
measured, and whoever cuts it short ends the process. So the files are read here, into memory of our own, and hashed
from there; transformers is given what it would have got from safetensors.

Several threads read ahead in the order of the files, one per file hashes in that order, and transformers takes tensors
in an order of its own. What has been read waits until it is both taken and hashed. Where memory has no room for that,
a tensor is read twice: once for whoever takes it and once for the digest of its file, and both readings have to have
the same SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import Any, NoReturn

import psutil
from torch import Tensor
from transformers import modeling_utils
from transformers.quantizers import quantizer_torchao

from pytest_proofpack.common.files import sha256_file
from pytest_proofpack.common.model_directory import root_digest
from pytest_proofpack.errors import EvaluationError, FormatError
from pytest_proofpack.models.files import CheckpointFiles, changed_error
from pytest_proofpack.models.safetensors_files import stored_tensors
from pytest_proofpack.models.single_file import SingleFileCopy
from pytest_proofpack.models.stored_bytes import PIECE, as_tensor, bytes_of, read_bytes
from pytest_proofpack.models.unpacked_file import UnpackedFile, Unpacking

_HELD_SHARE = 0.5
"""Part of the host's free memory that may hold what is not yet both taken and hashed."""
_MOST_THREADS = 8
_TAKEN = "taken"
_HASHED = "hashed"


class _Stage(Enum):
    """How far reading a tensor ahead has come."""

    AHEAD = auto()
    READING = auto()
    HELD = auto()
    LET_GO = auto()


class CheckpointReading:
    """One load of a checkpoint: what is read of its files, and the digest of just that.

    Attributes:
        files: the checkpoint's files, as they were found.
        opened: those of them that were opened for their tensors, by path.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        """Read nothing yet."""
        self.files = files
        self.opened: dict[Path, HashedFile] = {}
        self._unpacking = Unpacking(files, lambda path, name: self._hashed(path).take(name))
        self._threads = min(_MOST_THREADS, os.cpu_count() or 1)
        self._readers = ThreadPoolExecutor(self._threads)
        self._hashers = ThreadPoolExecutor(self._threads)
        self._room = _Room(int(_HELD_SHARE * psutil.virtual_memory().available))
        weights = files.weights if files.format.supported else ()  # of others, transformers says what is wrong
        self._weights = [file for file in weights if file.suffix == ".safetensors"]
        self._single = SingleFileCopy(files)
        self._others = {
            path: self._hashers.submit(sha256_file, path)
            for path in (files.path / name for name in files.content)
            if path not in (*self._weights, *self._single.files)
        }

    def open(self, filename: str | os.PathLike[str], *_given: object, **_options: object) -> OpenedFile | UnpackedFile:
        """Open a file as :func:`safetensors.safe_open` does, but for its tensors being copies in host memory, unpacked.

        Raises:
            EvaluationError: it is not what it was when it was checked.
        """
        path = Path(filename)
        return self._unpacking.in_place_of(OpenedFile(self._hashed(path)), path)

    def _hashed(self, path: Path) -> HashedFile:
        if path not in self.opened:
            self.opened[path] = HashedFile(path, self._room, self._readers, self._hashers)
        return self.opened[path]

    @contextmanager
    def instead_of_mapping(self) -> Iterator[Mapping[str, Any]]:
        """Let transformers read through this object as long as the context lasts.

        It gives what ``from_pretrained`` is told besides: the copy of a single file that it is to map.

        Raises:
            EvaluationError: a file was cut short; or, at the end, transformers has read weights in another way.
        """
        ours = {"safe_open": self.open, "_is_on_hf_mount": lambda _path: False}
        before = {
            (module, name): getattr(module, name)
            for module in (modeling_utils, quantizer_torchao)  # which reads headers by itself
            for name in ours
            if hasattr(module, name)
        }
        try:
            for module, name in before:
                setattr(module, name, ours[name])
            with self._single.given() as given:
                yield given
        except BaseException:
            self.stop()
            if (problem := self._problem) is not None:  # transformers may have put it in words of its own
                raise problem from None
            raise
        finally:
            for (module, name), value in before.items():
                setattr(module, name, value)
            for file in self.opened.values():
                file.nobody_takes_more()
        if missed := [file for file in self._weights if file not in self.opened]:
            self.stop()
            raise EvaluationError(
                f"{missed[0]}: the installed transformers reads weights in a way that can't be followed, so nobody "
                "could tell of which bytes a certificate is. Install a version that was tested (constraints.txt)."
            )

    def digest(self) -> str:
        """Return the root digest of the directory, of the bytes that were read, once all are hashed.

        Raises:
            EvaluationError: a file has changed since it was found; names it.
        """
        try:
            found = {path: file.digest() for path, file in self.opened.items()}
            found |= {path: future.result() for path, future in self._others.items()}
            found |= self._single.digests
        except OSError as error:
            raise EvaluationError(f"{error.filename}: can't be read ({error.strerror or error}).") from error
        if changed := self.files.changed:
            raise changed_error(changed)
        return root_digest(found[self.files.path / name] for name in self.files.content)

    def stop(self) -> None:
        """Read and hash no more than what is under way."""
        for pool in (self._readers, self._hashers):
            pool.shutdown(wait=False, cancel_futures=True)
        for file in self.opened.values():
            file.stop()

    @property
    def _problem(self) -> EvaluationError | None:
        problems = (file.problem for file in self.opened.values() if file.problem is not None)
        return next(problems, self._unpacking.problem)


class HashedFile:
    """One safetensors file: every tensor is read once, for whoever takes it and for the file's digest.

    Attributes:
        path: the file.
        tensors: where its tensors lie, by name.
        metadata: what its header says besides.
        problem: why it can't be used, once that is known.
    """

    def __init__(self, path: Path, room: _Room, readers: ThreadPoolExecutor, hashers: ThreadPoolExecutor) -> None:
        """Open the file and begin to read it ahead and to hash it.

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
        self._stopped = False
        for name in self.tensors:
            readers.submit(self._read_ahead, name)
        self._hashers = hashers
        self._hasher = hashers.submit(self._hash)
        self._finisher: Future[str] | None = None

    def take(self, name: str) -> Tensor:
        """Return a tensor in host memory, which nobody else writes to.

        Raises:
            EvaluationError: the file was cut short.
        """
        buffer = self._hold(name)
        if buffer is None:
            buffer = self._read(self.tensors[name].start, self.tensors[name].end)
            self._note(_TAKEN, name, hashlib.sha256(bytes_of(buffer)).digest())
        self._done(name, _TAKEN)
        return as_tensor(buffer, self.tensors[name])

    def nobody_takes_more(self) -> None:
        """Let go of what was read for nobody as soon as it is hashed, and of the file."""
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
        self._stopped = True

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

    def _read_ahead(self, name: str) -> None:
        """Read a tensor if nobody has and there is room to hold it."""
        start, end = self.tensors[name].start, self.tensors[name].end
        with self._change:
            if self._stages[name] is not _Stage.AHEAD or self._stopped:
                return
            held = self._room.take(end - start)
            self._stages[name] = _Stage.READING if held else _Stage.LET_GO
        if not held:
            return
        try:
            self._buffers[name] = self._read(start, end)
        finally:
            with self._change:
                self._stages[name] = _Stage.HELD if name in self._buffers else _Stage.LET_GO
                self._change.notify_all()

    def _hold(self, name: str) -> Tensor | None:
        """Return a tensor's bytes, read ahead or now; None where there is no room for them, or no more."""
        self._read_ahead(name)
        with self._change:
            self._change.wait_for(lambda: self._stages[name] is not _Stage.READING)
            return self._buffers.get(name)

    def _done(self, name: str, what: str) -> None:
        """Take note that a tensor is taken or hashed; when both are done its bytes are held no longer."""
        with self._change:
            self._owed[name].discard(what)
            if self._owed[name] or self._buffers.pop(name, None) is None:
                return
            self._stages[name] = _Stage.LET_GO
        self._room.give(self.tensors[name].end - self.tensors[name].start)

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
            buffer = None if name in apart else self._hold(name)
            if buffer is not None:
                whole.update(bytes_of(buffer))
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

    def _read(self, start: int, end: int) -> Tensor:
        """Return bytes of the file in memory of their own."""
        try:
            return read_bytes(self._descriptor, start, end)
        except FormatError:
            self._fail()
        except OSError as error:
            self.problem = EvaluationError(f"{self.path}: can't be read ({error.strerror or error}).")
            raise self.problem from error

    def _fail(self) -> NoReturn:
        self.problem = changed_error((self.path,))
        raise self.problem


class OpenedFile:
    """What transformers gets in place of safetensors' own object."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file

    def __enter__(self) -> OpenedFile:
        return self

    def __exit__(self, *_error: object) -> None:
        """Do nothing: the file is hashed on."""

    def keys(self) -> list[str]:
        """Return the names of the tensors."""
        return sorted(self._file.tensors)

    def metadata(self) -> Mapping[str, str] | None:
        """Return what the header says besides."""
        return self._file.metadata

    def get_tensor(self, name: str) -> Tensor:
        """Return a tensor."""
        return self._file.take(name)

    def get_slice(self, name: str) -> OpenedTensor:
        """Return a tensor that is not read yet."""
        return OpenedTensor(self._file, name)


class OpenedTensor:
    """A tensor that is read when it is indexed, as transformers does with safetensors' own object."""

    def __init__(self, file: HashedFile, name: str) -> None:
        self._file = file
        self._name = name

    def __getitem__(self, index: Any) -> Tensor:
        """Return a part of the tensor, or all of it (``...``)."""
        return self._file.take(self._name)[index]

    def get_shape(self) -> list[int]:
        """Return its shape."""
        return list(self._file.tensors[self._name].shape)

    def get_dtype(self) -> str:
        """Return its type in safetensors' words."""
        return self._file.tensors[self._name].dtype


class _Room:
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
