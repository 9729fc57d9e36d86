"""A checkpoint's files as the originals of what an edit replaces, where memory has no room for copies of them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pytest_proofpack.errors import RestoreError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.slabs import as_integers, row_slabs


class StoredWeights:
    """The tensors in a checked directory's files, each memory-mapped when it is asked for.

    Only those whose key is the parameter's name are found: where transformers renames or fuses tensors while it loads
    them, there is nothing to give.
    """

    def __init__(self, directory: Path) -> None:
        """Take note of which file holds what, and of the files' states, by which later changes are seen."""
        files = CheckpointFiles.at(directory)
        self._states = {file: _state(file) for file in files.weights}
        self._files = {name: file for file, tensors in files.headers.items() for name in tensors}
        self._held: dict[str, bool] = {}

    def read(self, name: str) -> Tensor | None:
        """Return a tensor, in host memory; None if there is none of that name."""
        if name not in self._files:
            return None
        with safe_open(self._files[name], framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
            return tensor

    def holds(self, name: str, parameter: Tensor) -> bool:
        """Tell whether the files hold an unedited parameter bit by bit. It is compared once, then remembered."""
        if name not in self._held:
            self._held[name] = self._is_same(name, parameter)
        return self._held[name] and not self._has_changed(name)

    def put_back(self, name: str, parameter: Tensor) -> None:
        """Give a parameter that the files hold its original values again.

        Raises:
            RestoreError: its file is not as it was when the model was loaded; the parameter is not restored.
        """
        try:
            stored = None if self._has_changed(name) else self.read(name)
        except (OSError, SafetensorError):
            stored = None
        if stored is None:
            raise RestoreError(
                f"{self._files[name].name}: changed on disk while its model was being edited, so {name} can't be "
                "restored from it. The model will be loaded again; leave its files alone, and run this once more."
            )
        with torch.no_grad():
            for ours, theirs in _pairs(parameter, stored):
                ours.copy_(theirs)

    def _is_same(self, name: str, parameter: Tensor) -> bool:
        stored = self.read(name)
        if stored is None or (stored.shape, stored.dtype) != (parameter.shape, parameter.dtype):
            return False
        bits = as_integers(parameter), as_integers(stored)  # in which NaN is equal to itself, and -0 is not 0
        return all(torch.equal(ours, theirs.to(ours.device)) for ours, theirs in _pairs(*bits))

    def _has_changed(self, name: str) -> bool:
        file = self._files[name]
        return _state(file) != self._states[file]


def _state(file: Path) -> tuple[int, ...]:
    """Return what changes when a file is written or replaced; empty if it is gone."""
    try:
        facts = file.stat()
    except OSError:
        return ()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _pairs(parameter: Tensor, stored: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return corresponding slabs of a parameter and of the tensor that a file holds, in bounded pieces."""
    slabs = row_slabs(parameter)
    return list(zip(slabs, torch.split(stored, [len(slab) for slab in slabs]), strict=True))
