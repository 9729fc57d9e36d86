"""Whether two checkpoints hold the same values, however they were saved: anew, in other shards, in another dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.models.files import CheckpointFiles

if TYPE_CHECKING:
    from torch import Tensor

Read = Callable[[str], "Tensor"]


def hold_same_values(ours: CheckpointFiles, theirs: CheckpointFiles) -> bool:
    """Tell whether every tensor of one checkpoint is in the other, with equal values; it ends at the first that is not.

    A tensor that only one of them has may be the copy of another one in it: the head that is tied to the embedding.
    Files of quantized weights are never called the same, nor are those of which only one has other tensors; that is
    then seen once the models are loaded.
    """
    if ours.quantization_method is not None or theirs.quantization_method is not None:
        return False
    common = ours.tensors.keys() & theirs.tensors.keys()
    if not common or any(ours.tensors[name].shape != theirs.tensors[name].shape for name in common):
        return False
    read_ours, read_theirs = _reader(ours), _reader(theirs)
    if not all(
        _is_copy(name, files, common, read)
        for files, read in ((ours, read_ours), (theirs, read_theirs))
        for name in files.tensors.keys() - common
    ):
        return False
    return all(_equal(read_ours(name), read_theirs(name)) for name in sorted(common))


def _reader(files: CheckpointFiles) -> Read:
    """Return what reads a tensor of a checkpoint by its name, memory-mapped."""
    where: Mapping[str, Path] = {name: file for file, tensors in files.headers.items() for name in tensors}

    def read(name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(where[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor

    return read


def _is_copy(name: str, files: CheckpointFiles, common: set[str], read: Read) -> bool:
    header = files.tensors[name]
    alike = sorted(other for other in common if files.tensors[other] == header and len(header.shape) > 1)
    return any(_equal(read(name), read(other)) for other in alike)


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    import torch

    from pytest_proofpack.models.slabs import row_slabs

    if not ours.ndim:
        return bool(ours == theirs)
    pieces = row_slabs(ours)
    others = torch.split(theirs, [len(piece) for piece in pieces])
    if ours.dtype != theirs.dtype:
        return all(torch.equal(one.double(), two.double()) for one, two in zip(pieces, others, strict=True))
    return all(torch.equal(one, two) for one, two in zip(pieces, others, strict=True))
