"""Rounding to nearest, symmetric, with one scale per row and group of columns, or one for a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_proofpack.models.matrices import MatrixView


def quantize_rtn(matrix: Tensor, bits: int, group_size: int) -> Tensor:
    """Return ``matrix`` after quantization to ``bits`` and back.

    Per row and group of ``group_size`` columns (the last may be shorter): the scale s is
    max abs(w) / (2^(bits - 1) - 1); w becomes s times w / s, rounded to nearest and clamped to
    [-2^(bits - 1), 2^(bits - 1) - 1]. Groups of zeros stay zeros.

    Args:
        matrix: shape (rows, columns), float32.
        bits: 2 to 8.
        group_size: columns that share a scale, at least 1.
    """
    rows, columns = matrix.shape
    whole = columns - columns % group_size
    pieces = []
    if whole:
        grouped = matrix[:, :whole].reshape(rows, -1, group_size)
        pieces.append(_quantize_last_dimension(grouped, bits).reshape(rows, whole))
    if whole < columns:
        pieces.append(_quantize_last_dimension(matrix[:, whole:], bits))
    return torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]


def quantize_with_one_scale(view: MatrixView, bits: int) -> None:
    """Quantize a matrix in place to ``bits`` and back, with a single scale for all of it."""
    magnitude = torch.zeros((), device=view.tensor.device)
    for slab in view.slabs():
        magnitude = torch.maximum(magnitude, slab.read().abs().amax())
    for slab in view.slabs():
        slab.write(_rounded(slab.read(), magnitude, bits))


def _quantize_last_dimension(groups: Tensor, bits: int) -> Tensor:
    return _rounded(groups, groups.abs().amax(dim=-1, keepdim=True), bits)


def _rounded(values: Tensor, magnitude: Tensor, bits: int) -> Tensor:
    """Return values rounded to multiples of the scale that follows from their largest magnitude."""
    largest = 2 ** (bits - 1) - 1
    scale = magnitude / largest
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (values / divisor).round_().clamp_(-largest - 1, largest).mul_(scale)
