"""Weights read once: the bytes that become a model's tensors are those that its digest is of.

transformers maps a checkpoint's files into memory. Whoever writes to such a file changes a model that is being
measured, and whoever cuts it short ends the process. So the files are read here, into memory of our own, and hashed
from there; transformers is given what it would have got from safetensors.

Several threads read ahead in the order of the files, one per file hashes in that order, and transformers takes tensors
in an order of its own. Weights that go to a GPU as they are stored take no host memory on their way: they are read
when they are taken, a piece at a time, and hashed from the GPU. See :mod:`pytest_proofpack.models.hashed_file`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import core_model_loading, modeling_utils
from transformers.quantizers import quantizer_torchao

from pytest_proofpack.common.files import reading_threads, sha256_file
from pytest_proofpack.common.model_directory import root_digest
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.files import CheckpointFiles, changed_error
from pytest_proofpack.models.hashed_file import HashedFile, Room
from pytest_proofpack.models.single_file import SingleFileCopy
from pytest_proofpack.models.stored_bytes import torch_type
from pytest_proofpack.models.unpacked_file import UnpackedFile, Unpacking

_HELD_SHARE = 0.5
"""Part of the host's free memory that may hold what is not yet both taken and hashed."""
_CONVERT = "convert_and_load_state_dict_in_model"
_MATERIALIZE = "_materialize_copy"
"""What transformers calls the functions that fill a model with tensors, and that get one of these to its device."""


class CheckpointReading:
    """One load of a checkpoint: what is read of its files, and the digest of just that.

    Attributes:
        files: the checkpoint's files, as they were found.
        opened: those of them that were opened for their tensors, by path.
    """

    def __init__(self, files: CheckpointFiles, *, device: str = "cpu", quantized: bool = False) -> None:
        """Read nothing yet.

        Args:
            files: of the checkpoint.
            device: where the model goes, or its first part.
            quantized: whether it is quantized while it is loaded.
        """
        self.files = files
        self.opened: dict[Path, HashedFile] = {}
        self._unpacking = Unpacking(files, lambda path, name: self._hashed(path).take(name))
        self._readers, self._hashers = reading_threads(), reading_threads()
        self._room = Room(int(_HELD_SHARE * psutil.virtual_memory().available))
        stored = files.format.in_safetensors and not (quantized or files.unpacked)
        self._as_stored = _is_gpu(device) and stored and files.format.quantization(files) is None
        self._straight: frozenset[str] = frozenset()
        self._usual: Mapping[str, Callable[..., Any]] = {}
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
            readers = None if self._as_stored else self._readers
            self.opened[path] = HashedFile(path, self._room, readers, self._hashers)
        return self.opened[path]

    @contextmanager
    def instead_of_mapping(self) -> Iterator[Mapping[str, Any]]:
        """Let transformers read through this object as long as the context lasts.

        It gives what ``from_pretrained`` is told besides: the copy of a single file that it is to map.

        Raises:
            EvaluationError: a file was cut short; or, at the end, transformers has read weights in another way.
        """
        ours = self._ours()
        before = {(module, name): getattr(module, name) for module, name in ours}
        self._usual = {name: value for (_, name), value in before.items()}
        try:
            for module, name in before:
                setattr(module, name, ours[module, name])
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

    def _ours(self) -> Mapping[tuple[ModuleType, str], Callable[..., Any]]:
        """Return what stands in for functions of transformers, by module and name, of those that it has."""
        wanted: Mapping[tuple[ModuleType, str], Callable[..., Any]] = {
            (modeling_utils, "safe_open"): self.open,
            (quantizer_torchao, "safe_open"): self.open,  # which reads headers by itself
            (modeling_utils, "_is_on_hf_mount"): lambda _path: False,
            (modeling_utils, _CONVERT): self._choosing,
            (core_model_loading, _MATERIALIZE): self._materialize,
        }
        return {(module, name): ours for (module, name), ours in wanted.items() if hasattr(module, name)}

    def _choosing(self, *given: Any, **named: Any) -> Any:
        """Fill a model as transformers does, and know of each tensor beforehand whether it stays as it is stored.

        Where some are merged, for example of experts, only those do that have the name of a parameter.
        """
        mapping = getattr(named.get("load_config"), "weight_mapping", None) or ()
        if self._as_stored and {"model", "state_dict", "load_config"} <= named.keys():
            merges = any(isinstance(entry, core_model_loading.WeightConverter) for entry in mapping)
            own = named["model"].state_dict().keys() if merges else named["state_dict"].keys()
            self._straight = frozenset(own)
        return self._usual[_CONVERT](*given, **named)

    def _materialize(self, tensor: Any, device: Any = None, dtype: torch.dtype | None = None) -> Tensor:
        """Return a tensor where transformers wants it; one that stays as it is stored goes straight to a GPU."""
        is_known = isinstance(tensor, OpenedTensor) and tensor.name in self._straight
        made: Tensor
        if is_known and device is not None and _is_gpu(device) and tensor.is_of(dtype):
            made = tensor.onto(torch.device(device))
        else:
            made = self._usual[_MATERIALIZE](tensor, device, dtype)
        return made

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
        self.name = name

    def __getitem__(self, index: Any) -> Tensor:
        """Return a part of the tensor, or all of it (``...``)."""
        return self._file.take(self.name)[index]

    def onto(self, device: torch.device) -> Tensor:
        """Return the tensor as it is stored, on a device."""
        return self._file.take(self.name, device).to(device)

    def is_of(self, dtype: torch.dtype | None) -> bool:
        """Tell whether a type, if one is wanted, is the one that the tensor is stored in."""
        return dtype is None or torch_type(self._file.tensors[self.name]) == dtype

    def get_shape(self) -> list[int]:
        """Return its shape."""
        return list(self._file.tensors[self.name].shape)

    def get_dtype(self) -> str:
        """Return its type in safetensors' words."""
        return self._file.tensors[self.name].dtype


def _is_gpu(device: Any) -> bool:
    return torch.device(device).type == "cuda"
