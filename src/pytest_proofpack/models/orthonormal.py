"""Orthonormal bases by matrix products: Householder's QR is slow on an accelerator."""

from __future__ import annotations

import torch
from torch import Tensor

_LIFTED = 1e-14
"""Part of the largest product that directions lost in its noise are lifted by, just enough for a factor to exist."""
_TINY = 1e-300


def orthonormal(columns: Tensor, *, exactly: bool = True) -> Tensor:
    """Return an orthonormal basis of the span of columns, in float32.

    Args:
        columns: shape (..., rows, columns), finite, fewer columns than rows.
        exactly: whether it has to be one to float32's precision; else, on an accelerator, it is nearly one, which is
            enough to keep columns apart while they are multiplied on.

    Returns:
        The same shape. Where columns are zero: on an accelerator zeros, on a CPU any orthonormal columns.
    """
    if columns.device.type == "cpu":
        exact: Tensor = torch.linalg.qr(columns).Q
        return exact
    basis = cholesky_qr(columns)
    return cholesky_qr(basis) if exactly else basis


def cholesky_qr(columns: Tensor) -> Tensor:
    """Return the columns, shape (..., rows, columns), divided by the Cholesky factor of their Gram matrix, in float32.

    A second round takes the first one's rounding away (Yamamoto and others 2015, "Roundoff error analysis of the
    CholeskyQR2 algorithm"). Columns of zeros stay zero.
    """
    wide = columns.double()
    gram = wide.mT @ wide
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal += diagonal.amax(dim=-1, keepdim=True) * _LIFTED + _TINY
    factor = torch.linalg.cholesky_ex(gram).L
    basis: Tensor = torch.linalg.solve_triangular(factor, wide.mT, upper=False).mT.float()
    return basis
