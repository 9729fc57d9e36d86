"""Whether two checkpoints hold the same values, however they were saved: anew, in other shards, in another dtype."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.safetensors_files import StoredTensor, read_stored

if TYPE_CHECKING:
    from torch import Tensor

_PIECE = 2**20
"""Values that are compared at a time."""

Read = Callable[[str], Iterator["Tensor"]]
"""Yields the values of a tensor, piece by piece."""


def hold_same_values(ours: CheckpointFiles, theirs: CheckpointFiles) -> bool:
    """Tell whether every tensor of one checkpoint is in the other, with equal values; it ends at the first that is not.

    A tensor that only one of them has may be the copy of another one in it: the head that is tied to the embedding.
    Files of quantized weights are never called the same, nor are those of which only one has other tensors; that is
    then seen once the models are loaded.
    """
    if not all(files.format.in_safetensors and files.quantization_method is None for files in (ours, theirs)):
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
    """Return what reads a tensor of a checkpoint by its name, flat and in pieces of the same length; never mapped."""
    known: dict[str, StoredTensor] = {}

    def read(name: str) -> Iterator[Tensor]:
        file = files.places[name]
        try:
            if name not in known:
                known.update(read_stored(file).tensors)
            yield from _pieces(file, known[name])
        except (FormatError, OSError) as error:
            raise ConfigurationError(
                f"{file}: changed on disk while it was compared ({error}). Leave it alone, and begin anew."
            ) from error

    return read


def _pieces(file: Path, stored: StoredTensor) -> Iterator[Tensor]:
    from pytest_proofpack.models.stored_bytes import as_tensor, read_bytes

    count, size = math.prod(stored.shape), stored.end - stored.start
    descriptor = os.open(file, os.O_RDONLY)
    try:
        for first in range(0, count, _PIECE):
            last = min(first + _PIECE, count)
            begin, end = (stored.start + size * place // count for place in (first, last))
            yield as_tensor(read_bytes(descriptor, begin, end), stored._replace(shape=(last - first,)))
    finally:
        os.close(descriptor)


def _is_copy(name: str, files: CheckpointFiles, common: set[str], read: Read) -> bool:
    header = files.tensors[name]
    alike = sorted(other for other in common if files.tensors[other] == header and len(header.shape) > 1)
    return any(_equal(read(name), read(other)) for other in alike)


def _equal(ours: Iterator[Tensor], theirs: Iterator[Tensor]) -> bool:
    import torch

    return all(
        torch.equal(*((one, two) if one.dtype == two.dtype else (one.double(), two.double())))
        for one, two in zip(ours, theirs, strict=True)
    )
