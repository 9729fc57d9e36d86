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
    elements = zeros = 0
    for view in views:
        pruned = prune_smallest(view.read(), sparsity)
        view.write(pruned)
        elements += pruned.numel()
        zeros += int((pruned == 0).sum())
    return {"matrices": len(views), "elements": elements, "zeros": zeros}


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
    threshold = torch.kthvalue(magnitudes, count).values
    below = magnitudes < threshold
    tied = (magnitudes == threshold).nonzero().flatten()
    flat = flat.masked_fill(below, 0.0)
    flat[tied[: count - int(below.sum())]] = 0.0
    return flat.reshape(matrix.shape)
