"""The smallest magnitudes of a matrix, exactly so many of them, without a sort and without waiting for the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pytest_proofpack.models.slabs import as_integers, count_true

_BLOCK = 64
_ONE_IN_EACH_BYTE = 0x0101010101010101


def prune_smallest(matrix: Tensor, sparsity: float) -> None:
    """Set the round(sparsity x elements) smallest magnitudes of ``matrix`` to zero, in place.

    The threshold is the exact order statistic. Of magnitudes equal to it, common in 16-bit weights, just as many
    are zeroed as the count asks for, in row-major order. Nothing waits for the device.
    """
    count = round(sparsity * matrix.numel())
    if count == 0:
        return
    bits = as_integers(matrix.abs().flatten())
    threshold, smaller = _order_statistic(bits, count)
    matrix.masked_fill_(smallest(bits, threshold, count - smaller).view(matrix.shape), 0.0)


def smallest(values: Tensor, threshold: Tensor, number: Tensor) -> Tensor:
    """Return a mask of the values below a threshold, and of the first ``number`` of those equal to it.

    Numbering all that are equal would take nine bytes per value. So they are counted by blocks: read as 64-bit
    integers, the bytes of a block are added up eight at a time, which none of them overflows.

    Args:
        values: integers, of one dimension.
        threshold: of their dtype, shape (1,).
        number: shape (1,).
    """
    blocks = pad(values, (0, -len(values) % _BLOCK)) if len(values) % _BLOCK else values
    blocks = blocks.view(-1, _BLOCK)
    counts = ((blocks == threshold).view(torch.int64).sum(dim=1) * _ONE_IN_EACH_BYTE) >> 56
    ends = counts.cumsum(0)
    # All of a block up to a limit: the threshold, or one less, since the largest integer has no successor.
    below = threshold - 1
    mask = blocks <= (below + (ends <= number))[:, None]
    # The block of which only the first few that are equal count, or one of which all do.
    place = torch.searchsorted(ends, number).clamp_(max=len(blocks) - 1)
    left = number - (ends - counts).index_select(0, place)
    block = blocks.index_select(0, place)
    mask.index_copy_(0, place, block <= below + ((block == threshold).cumsum(1) <= left))
    return mask.view(-1)[: len(values)]


def _order_statistic(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count``-th smallest of some integers that are not negative, and how many are smaller, shapes (1,).

    torch.kthvalue is not used, because it needs eight bytes of places per value, and on a GPU half a second, by a
    single block of threads.
    """
    if values.device.type == "cpu":
        return select_by_partition(values, count)
    if values.device.type == "cuda" and values.itemsize == 2:
        return select_by_counting(values, count)
    return select_by_halving(values, count)


def select_by_partition(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Select on a CPU; see _order_statistic for this and the others."""
    found = torch.tensor([np.partition(values.numpy(), count - 1)[count - 1]], dtype=values.dtype)
    return found, count_true(values < found).view(1)


def select_by_counting(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Select among 16-bit integers by two histograms: of high bytes, and of the low ones beside the one found.

    A histogram of integers is deterministic, unlike one of floats; only CUDA has it.
    """
    wide = values.int()
    high, below = _select_bin(wide, torch.full((1,), count, device=values.device), bins=2**7, width=2**8)
    low, beside = _select_bin(wide.sub_(high), count - below, bins=2**8, width=1)
    return (high + low).to(values.dtype), below + beside


def _select_bin(values: Tensor, count: Tensor, *, bins: int, width: int) -> tuple[Tensor, Tensor]:
    """Return where the bin with the ``count``-th smallest value begins, and how many values lie in bins before it.

    Values outside of all bins are not counted. There is one bin more than is read, because the last one takes in its
    upper end.
    """
    counts = torch.histc(values, bins=bins + 1, min=0, max=(bins + 1) * width)
    ends = counts.cumsum(0)
    place = torch.searchsorted(ends, count)
    return place * width, (ends - counts).index_select(0, place)


def select_by_halving(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Select on any device, bit by bit from the highest.

    Each of the 31 counts (of 32-bit integers) takes little longer than reading the values; a sort would take ten times
    the memory.
    """
    found, smaller = values.new_zeros(1), torch.zeros(1, dtype=torch.int64, device=values.device)
    for place in reversed(range(8 * values.itemsize - 1)):
        candidate = found | (1 << place)
        counted = count_true(values < candidate)
        fits = counted < count
        found, smaller = torch.where(fits, candidate, found), torch.where(fits, counted, smaller)
    return found, smaller
