"""Unstructured pruning by magnitude, within each matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_proofpack.edits.scope import MatrixView
from pytest_proofpack.records import EditSpec


def apply_magnitude_prune(views: list[MatrixView], edit: EditSpec, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Prune every matrix; return the number of elements, and of zeros afterwards."""
    sparsity = float(edit.parameters["sparsity"])
    elements = 0
    zeros = []
    for view in views:
        pruned = prune_smallest(view.read(view.tensor.dtype), sparsity)
        view.write(pruned)
        elements += pruned.numel()
        zeros.append((pruned == 0).sum())
    return {"matrices": len(views), "elements": elements, "zeros": sum(count.item() for count in zeros)}


def prune_smallest(matrix: Tensor, sparsity: float) -> Tensor:
    """Return ``matrix`` with its round(sparsity x elements) smallest magnitudes set to zero.

    The threshold is the exact order statistic. Of magnitudes equal to it, common in 16-bit weights, just as many
    are zeroed as the count asks for, in row-major order.
    """
    count = round(sparsity * matrix.numel())
    if count == 0:
        return matrix
    flat = matrix.flatten()
    magnitudes = flat.abs()
    threshold, smaller = _order_statistic(magnitudes, count)
    below, tied = magnitudes < threshold, magnitudes == threshold
    # Running numbers instead of places: nothing waits for the device.
    chosen = tied & (tied.cumsum(0, dtype=torch.int32) <= count - smaller)
    return flat.masked_fill(below | chosen, 0.0).reshape(matrix.shape)


def _order_statistic(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count``-th smallest value, and how many are smaller than it."""
    if values.device.type == "cpu":
        threshold = torch.kthvalue(values, count).values
        return threshold, (values < threshold).sum()
    return order_statistic_by_sorting(values, count)


def order_statistic_by_sorting(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Do the same by a sort, which takes two milliseconds for a large matrix on a GPU.

    torch.kthvalue takes half a second there: a single block of threads does all of its work.
    """
    ordered = values.sort().values
    threshold = ordered[count - 1]
    return threshold, torch.searchsorted(ordered, threshold)
