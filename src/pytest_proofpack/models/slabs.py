"""Matrices of any size in bounded memory: worked on in slabs of rows, and counted without copies."""

from __future__ import annotations

import torch
from torch import Tensor

SLAB_ELEMENTS = 2**26
CPU_SLAB_ELEMENTS = 2**20
"""Elements that are worked on at a time: on a CPU they should stay in the cache, on an accelerator keep it busy, and
nowhere should an embedding of a billion elements be copied as a whole."""

_COUNTED_TOGETHER = 64
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes."""


def row_slabs(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return views on parts of a tensor along its first dimension, each of bounded size or a single entry."""
    elements = CPU_SLAB_ELEMENTS if tensor.device.type == "cpu" else SLAB_ELEMENTS
    height = max(1, elements * len(tensor) // max(1, tensor.numel()))
    return torch.split(tensor.detach(), height)


def as_integers(tensor: Tensor) -> Tensor:
    """Return a view on a tensor's bits. Floats that are not negative order as their bits do."""
    return tensor.view(_INTEGERS[tensor.itemsize])


def count_true(mask: Tensor) -> Tensor:
    """Return how many elements of a mask are true, on its device.

    Its plain sum would first copy it to eight bytes per element. The sum of 64 fits a single byte.
    """
    single = mask.view(torch.int8).reshape(-1)
    whole = len(single) - len(single) % _COUNTED_TOGETHER
    together = single[:whole].view(_COUNTED_TOGETHER, -1).sum(dim=0, dtype=torch.int8)
    return together.sum() if whole == len(single) else together.sum() + single[whole:].sum()
