"""Magnitude pruning: the smallest weights of every matrix become zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pytest_proofpack.edits.scope import MatrixView
from pytest_proofpack.edits.slabs import count_true, row_slabs
from pytest_proofpack.records import EditSpec

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_SORTED_TOGETHER = 2**24
_BLOCK = 64
_ONE_IN_EACH_BYTE = 0x0101010101010101


def apply_magnitude_prune(views: list[MatrixView], edit: EditSpec, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Prune every matrix; return the number of elements, and of zeros afterwards."""
    sparsity = float(edit.parameters["sparsity"])
    zeros = []
    for view in views:
        prune_smallest(view.tensor.detach(), sparsity)
        zeros.append(count_true(view.tensor == 0))
    elements = sum(view.tensor.numel() for view in views)
    # Counted on the device, and fetched only when all work has been launched.
    return {"matrices": len(views), "elements": elements, "zeros": sum(count.item() for count in zeros)}


def prune_smallest(matrix: Tensor, sparsity: float) -> None:
    """Set the round(sparsity x elements) smallest magnitudes of ``matrix`` to zero, in place.

    The threshold is the exact order statistic. Of magnitudes equal to it, common in 16-bit weights, just as many
    are zeroed as the count asks for, in row-major order. Nothing waits for the device.
    """
    count = round(sparsity * matrix.numel())
    if count == 0:
        return
    magnitudes = matrix.abs().flatten()
    threshold = _order_statistic(magnitudes, count)
    below = magnitudes < threshold
    tied = first_true(magnitudes == threshold, count - count_true(below))
    matrix.masked_fill_((below | tied).view(matrix.shape), 0.0)


def first_true(mask: Tensor, number: Tensor) -> Tensor:
    """Return a mask of one dimension with the first ``number`` of its true entries only.

    Numbering all of them would take nine bytes per entry. So true entries are counted by blocks first: read as 64-bit
    integers, the bytes of a block are added up eight at a time, which none of them overflows.
    """
    blocks = pad(mask, (0, -len(mask) % _BLOCK)).view(-1, _BLOCK)
    counts = (blocks.view(torch.int64).sum(dim=1) * _ONE_IN_EACH_BYTE) >> 56
    ends = counts.cumsum(0)
    whole = ends <= number
    last = whole.sum().clamp(max=len(blocks) - 1).view(1)  # a block of which only the first few count, if there is one
    row = blocks.index_select(0, last)
    left = (number - ends.index_select(0, last) + counts.index_select(0, last)).clamp(min=0)
    chosen = (blocks & whole[:, None]).index_copy_(0, last, row & (row.cumsum(1) <= left))
    return chosen.view(-1)[: len(mask)]


def _order_statistic(magnitudes: Tensor, count: int) -> Tensor:
    """Return the ``count``-th smallest magnitude, on its device.

    Floats that are not negative order as their bits, read as integers. torch.kthvalue is not used, because it needs
    eight bytes of places per value, and on a GPU half a second, by a single block of threads.
    """
    bits = magnitudes.view(_BITS[magnitudes.itemsize])
    if bits.device.type == "cpu":
        found = select_by_partition(bits, count)
    else:
        found = select_by_sorting(bits, count) if bits.itemsize == 2 else select_by_halving(bits, count)
    return found.view(magnitudes.dtype)


def select_by_partition(bits: Tensor, count: int) -> Tensor:
    """Return the ``count``-th smallest of some integers on a CPU."""
    return torch.tensor(np.partition(bits.numpy(), count - 1)[count - 1], dtype=bits.dtype)


def select_by_sorting(bits: Tensor, count: int) -> Tensor:
    """Return the ``count``-th smallest of some 16-bit integers that are not negative.

    Slab by slab, because a sort takes twenty bytes per value while it lasts. How many are smaller than a candidate is
    then looked up, of all candidates for the high byte at once, and then of all for the low one.
    """
    slabs = [slab.sort().values for slab in row_slabs(bits, _SORTED_TOGETHER)]
    found = bits.new_zeros(1)
    for step, end in ((2**8, 2**15), (1, 2**8)):
        candidates = (found + torch.arange(0, end, step, device=bits.device)).to(bits.dtype)
        smaller = torch.stack([torch.searchsorted(slab, candidates) for slab in slabs]).sum(dim=0)
        found = candidates.index_select(0, (smaller < count).sum().view(1) - 1)
    return found.squeeze(0)


def select_by_halving(bits: Tensor, count: int) -> Tensor:
    """Return the ``count``-th smallest of some integers that are not negative, bit by bit from the highest.

    Each of the 31 counts (of 32-bit integers) takes little longer than reading the values; a sort would take ten times
    the memory.
    """
    found = bits.new_zeros(())
    for place in reversed(range(8 * bits.itemsize - 1)):
        candidate = found | (1 << place)
        found = torch.where(count_true(bits < candidate) < count, candidate, found)
    return found
