"""Unstructured pruning by magnitude, within each matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_proofpack.edits.scope import MatrixView
from pytest_proofpack.edits.slabs import count_true, row_slabs
from pytest_proofpack.records import EditSpec

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def apply_magnitude_prune(views: list[MatrixView], edit: EditSpec, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Prune every matrix; return the number of elements, and of zeros afterwards."""
    sparsity = float(edit.parameters["sparsity"])
    # Counted on the device, and fetched only when all work has been launched.
    zeros = [_prune_in_place(view, sparsity) for view in views]
    elements = sum(view.tensor.numel() for view in views)
    return {"matrices": len(views), "elements": elements, "zeros": sum(count.item() for count in zeros)}


def _prune_in_place(view: MatrixView, sparsity: float) -> Tensor:
    """Return how many zeros there are afterwards."""
    pruned = prune_smallest(view.tensor.detach(), sparsity)
    view.write(pruned)
    return count_true(pruned == 0)


def prune_smallest(matrix: Tensor, sparsity: float) -> Tensor:
    """Return a copy of ``matrix`` with its round(sparsity x elements) smallest magnitudes set to zero.

    The threshold is the exact order statistic. Of magnitudes equal to it, common in 16-bit weights, just as many
    are zeroed as the count asks for, in row-major order.
    """
    pruned = matrix.clone(memory_format=torch.contiguous_format)
    count = round(sparsity * matrix.numel())
    if count == 0:
        return pruned
    flat = pruned.view(-1)
    magnitudes = flat.abs()
    threshold, smaller = _order_statistic(magnitudes, count)
    ties = count - smaller
    for values, sizes in zip(row_slabs(flat), row_slabs(magnitudes), strict=True):
        # Running numbers instead of places: nothing waits for the device.
        tied = sizes == threshold
        chosen = tied & (tied.cumsum(0, dtype=torch.int32) <= ties)
        values.masked_fill_(chosen | (sizes < threshold), 0.0)
        ties = ties - count_true(tied)
    return pruned


def _order_statistic(magnitudes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count``-th smallest magnitude, and how many are smaller than it, on their device.

    Floats that are not negative order as their bits, read as integers. torch.kthvalue is not used, because it needs
    eight bytes of places per value, and on a GPU half a second, by a single block of threads.
    """
    bits = magnitudes.view(_BITS[magnitudes.itemsize])
    select = select_by_partition if magnitudes.device.type == "cpu" else select_by_halving
    found = select(bits, count)
    return found.view(magnitudes.dtype), count_true(bits < found)


def select_by_partition(bits: Tensor, count: int) -> Tensor:
    """Return the ``count``-th smallest of some integers on a CPU."""
    return torch.tensor(np.partition(bits.numpy(), count - 1)[count - 1], dtype=bits.dtype)


def select_by_halving(bits: Tensor, count: int) -> Tensor:
    """Return the ``count``-th smallest of some integers that are not negative, bit by bit from the highest.

    Nothing waits for the device. Each of the 15 counts (of 16-bit integers) or 31 takes about as long as reading the
    values; a sort would take ten times the memory.
    """
    found = bits.new_zeros(())
    for place in reversed(range(8 * bits.itemsize - 1)):
        candidate = found | (1 << place)
        found = torch.where(count_true(bits < candidate) < count, candidate, found)
    return found
