"""A checkpoint's files as the originals of what an edit replaces, where memory has no room for copies of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_proofpack.common.files import file_state, read_several
from pytest_proofpack.errors import FormatError, RestoreError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.safetensors_files import StoredTensor, read_stored
from pytest_proofpack.models.slabs import as_integers, row_slabs
from pytest_proofpack.models.stored_bytes import as_tensor, bytes_of, read_bytes, torch_type


class StoredWeights:
    """The tensors in a checked directory's files, read when they are asked for: never mapped, a slab at a time.

    Only those whose key is the parameter's name are found: where transformers renames or fuses tensors while it loads
    them, there is nothing to give. Of files that are no safetensors, which hold no parameter as it is in memory, copies
    in host memory are kept instead once the model is recognised. What has been compared with its parameter is
    remembered by its SHA-256, and whatever is read of it later has to have that.
    """

    def __init__(self, directory: Path) -> None:
        """Take note of which file holds what, and of the files' states, by which later changes are seen."""
        files = CheckpointFiles.at(directory)
        self._states = {file: file_state(file) for file in files.weights}
        self._files = files.places if files.format.in_safetensors else {}
        self._stored: dict[str, StoredTensor] = {}
        self._digests: dict[str, bytes | None] = {}
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
            tensor = as_tensor(self._bytes(name, stored.start, stored.end), stored)
        except (OSError, FormatError):
            raise self._changed(name) from None
        if (known := self._digests.get(name)) is not None and hashlib.sha256(bytes_of(tensor)).digest() != known:
            raise self._changed(name)
        return tensor

    def holds(self, name: str, parameter: Tensor) -> bool:
        """Tell whether the files hold an unedited parameter bit by bit. It is compared once, then remembered."""
        if name not in self._digests:
            self._digests[name] = self._digest_if_same(name, parameter)
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
        digest = hashlib.sha256()
        try:
            with torch.no_grad():
                for ours, theirs in self._slabs(name, parameter, digest.update):
                    ours.copy_(theirs)
        except (OSError, FormatError):
            raise self._changed(name) from None
        if digest.digest() != self._digests[name]:
            raise self._changed(name)

    def _digest_if_same(self, name: str, parameter: Tensor) -> bytes | None:
        """Return the SHA-256 of a parameter's bytes in its file; None if these are not its bits."""
        digest = hashlib.sha256()
        try:
            if name not in self._files or not _is_alike(self._where(name), parameter):
                return None
            for ours, theirs in self._slabs(name, parameter, digest.update):
                bits = as_integers(theirs).to(ours.device)  # in which NaN is equal to itself, and -0 is not 0
                if not torch.equal(as_integers(ours), bits):
                    return None
        except (OSError, FormatError):
            return None
        return digest.digest()

    def _slabs(
        self, name: str, parameter: Tensor, watch: Callable[[memoryview], None]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield corresponding slabs of a parameter and of the tensor that a file holds; show the latter's bytes."""
        stored = self._where(name)
        begin = stored.start
        for slab in row_slabs(parameter):
            buffer = self._bytes(name, begin, begin + slab.nbytes)
            watch(bytes_of(buffer))
            yield slab, as_tensor(buffer, stored._replace(shape=tuple(slab.shape)))
            begin += slab.nbytes

    def _where(self, name: str) -> StoredTensor:
        if name not in self._stored:
            self._stored |= read_stored(self._files[name]).tensors
        return self._stored[name]

    def _bytes(self, name: str, start: int, end: int) -> Tensor:
        """Return bytes of a tensor's file, which is as it was when the model was loaded."""
        file = self._files[name]
        descriptor = os.open(file, os.O_RDONLY)
        try:
            if file_state(descriptor) != self._states[file]:
                raise FormatError("has changed")
            return read_bytes(descriptor, start, end)
        finally:
            os.close(descriptor)

    def _has_changed(self, name: str) -> bool:
        file = self._files[name]
        return file_state(file) != self._states[file]

    def _changed(self, name: str) -> RestoreError:
        return RestoreError(
            f"{self._files[name].name}: changed on disk while its model was being edited, so {name} can't be "
            "restored from it. The model will be loaded again; leave its files alone, and run this once more."
        )


def _is_alike(stored: StoredTensor, parameter: Tensor) -> bool:
    return (stored.shape, torch_type(stored)) == (tuple(parameter.shape), parameter.dtype)
