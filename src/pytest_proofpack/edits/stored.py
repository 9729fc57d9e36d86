"""A checkpoint's files as the originals of what an edit replaces, where memory has no room for copies of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_proofpack.common.files import file_state, read_several
from pytest_proofpack.errors import FormatError, RestoreError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.pieces import is_same, put, read_pieces
from pytest_proofpack.models.safetensors_files import StoredTensor, read_stored
from pytest_proofpack.models.stored_bytes import as_tensor, bytes_of, host_memory, torch_type

_Made = TypeVar("_Made")
_Digests: TypeAlias = tuple[bytes, ...]
"""SHA-256 of each piece of a tensor's bytes, in order: of one tensor, several are hashed at a time."""


class StoredWeights:
    """The tensors in a checked directory's files, read when they are asked for: never mapped, a piece at a time.

    Only those whose key is the parameter's name are found: where transformers renames or fuses tensors while it loads
    them, there is nothing to give. Of files that are no safetensors, which hold no parameter as it is in memory, copies
    in host memory are kept instead once the model is recognised. What has been compared with its parameter is
    remembered by the SHA-256 of its pieces, and whatever is read of it later has to have that.
    """

    def __init__(self, directory: Path) -> None:
        """Take note of which file holds what, and of the files' states, by which later changes are seen."""
        files = CheckpointFiles.at(directory)
        self._states = {file: file_state(file) for file in files.weights}
        self._files = files.places if files.format.in_safetensors else {}
        self._stored: dict[str, StoredTensor] = {}
        self._digests: dict[str, _Digests | None] = {}
        self._copied = not files.format.in_safetensors
        self._copies: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor | None:
        """Return a tensor, in host memory; None if there is none of that name.

        Raises:
            RestoreError: its file is not as it was when the model was loaded.
        """
        if name not in self._files:
            return self._copies.get(name)
        try:
            stored = self._where(name)
            buffer = host_memory(stored.start, stored.end)
            digests = self._copy(name, buffer)
            tensor = as_tensor(buffer, stored)
        except (OSError, FormatError):
            raise self._changed(name) from None
        if (known := self._digests.get(name)) is not None and digests != known:
            raise self._changed(name)
        return tensor

    def holds(self, name: str, parameter: Tensor) -> bool:
        """Tell whether the files hold an unedited parameter bit by bit. It is compared once, then remembered."""
        if name not in self._digests:
            self._digests[name] = self._digests_if_same(name, parameter)
        return self._digests[name] is not None and not self._has_changed(name)

    def recognise(self, model: PreTrainedModel) -> None:
        """Compare all parameters of an unedited model with the files, several at a time, and remember their digests."""
        parameters = model.named_parameters(remove_duplicate=False)
        if self._copied:
            copies = {id(own): own.detach().to("cpu", copy=True) for own in model.parameters()}
            self._copies = {name: copies[id(own)] for name, own in parameters}
        else:
            read_several(lambda named: self.holds(*named), parameters)

    def put_back(self, name: str, parameter: Tensor) -> None:
        """Give a parameter that the files hold its original values again.

        Raises:
            RestoreError: its file is not as it was when the model was loaded; the parameter is not restored.
        """
        try:
            digests = self._copy(name, _bytes_in_place(parameter))
        except (OSError, FormatError):
            raise self._changed(name) from None
        if digests != self._digests[name]:
            raise self._changed(name)

    def _digests_if_same(self, name: str, parameter: Tensor) -> _Digests | None:
        """Return the digests of a parameter's pieces in its file; None if these are not its bits."""

        def compare(offset: int, piece: Tensor) -> tuple[bytes, bool]:
            return hashlib.sha256(bytes_of(piece)).digest(), is_same(piece, ours[offset : offset + len(piece)])

        try:
            if name not in self._files or not _is_alike(self._where(name), parameter):
                return None
            ours = _bytes_in_place(parameter)  # as such NaN is equal to itself, and -0 is not 0
            compared = self._pieces(name, compare, parameter.device)
        except (OSError, FormatError):
            return None
        return tuple(digest for digest, _ in compared) if all(same for _, same in compared) else None

    def _copy(self, name: str, data: Tensor) -> _Digests:
        """Copy a tensor from its file over other bytes, shaped (bytes,), and return the digests of its pieces."""

        def copy(offset: int, piece: Tensor) -> bytes:
            put(piece, data[offset : offset + len(piece)])
            return hashlib.sha256(bytes_of(piece)).digest()

        return tuple(self._pieces(name, copy, data.device))

    def _pieces(self, name: str, use: Callable[[int, Tensor], _Made], device: torch.device) -> list[_Made]:
        """Return what is made of each piece of a tensor in its file, which is as it was when the model was loaded."""
        file, stored = self._files[name], self._where(name)
        descriptor = os.open(file, os.O_RDONLY)
        try:
            if file_state(descriptor) != self._states[file]:
                raise FormatError("has changed")
            return read_pieces(descriptor, stored.start, stored.end, use, device)
        finally:
            os.close(descriptor)

    def _where(self, name: str) -> StoredTensor:
        if name not in self._stored:
            self._stored |= read_stored(self._files[name]).tensors
        return self._stored[name]

    def _has_changed(self, name: str) -> bool:
        file = self._files[name]
        return file_state(file) != self._states[file]

    def _changed(self, name: str) -> RestoreError:
        return RestoreError(
            f"{self._files[name].name}: changed on disk while its model was being edited, so {name} can't be "
            "restored from it. The model will be loaded again; leave its files alone, and run this once more."
        )


def _is_alike(stored: StoredTensor, parameter: Tensor) -> bool:
    """Tell whether a stored tensor may be a parameter, byte for byte."""
    same = (stored.shape, torch_type(stored)) == (tuple(parameter.shape), parameter.dtype)
    return same and parameter.is_contiguous()


def _bytes_in_place(parameter: Tensor) -> Tensor:
    """Return a view on the bytes of a parameter without gaps, shaped (bytes,)."""
    return parameter.detach().view(-1).view(torch.uint8)
