"""The largest singular value of large matrices from a few products with them, batched, without waiting for a device."""

from __future__ import annotations

import torch
from torch import Tensor

_BREAKDOWN = 1e-5
"""A Krylov residual below this part of the largest product is float32 rounding noise, not a new direction."""


def krylov_projection(matrices: Tensor, iterations: int, seed: int) -> Tensor:
    """Return V^T A^T A V, shape (batch, iterations, iterations), of V spanning the Krylov space of a seeded start.

    Lanczos' method with full reorthogonalisation, from one start for all of the batch. It costs what power iteration
    costs, two products with A a step, but keeps all steps: the square root of the largest eigenvalue of the result is
    at most 1.5 % below sigma_max after 16 steps on pure noise, the hardest spectrum, where power iteration is 3 %
    low; on spectra with an edge that stands out both are exact (measured against svdvals).
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrices.shape[2], 1, generator=generator).to(matrices.device)
    vector = (start / start.norm()).expand(len(matrices), -1, -1)
    basis = matrices.new_zeros(len(matrices), matrices.shape[2], iterations)
    products = torch.zeros_like(basis)
    largest = matrices.new_zeros(len(matrices), 1, 1)
    for step in range(iterations):
        product = matrices.mT @ (matrices @ vector)
        basis[..., step : step + 1], products[..., step : step + 1] = vector, product
        largest = torch.maximum(largest, product.norm(dim=1, keepdim=True))
        residual = product
        for _ in range(2):  # a second pass removes what cancellation left by the first
            residual = residual - basis @ (basis.mT @ residual)
        size = residual.norm(dim=1, keepdim=True)
        # The space may be exhausted, of a low-rank matrix for one. Zero vectors then follow, which add nothing.
        vector = torch.where(size > _BREAKDOWN * largest, residual / size, 0.0)
    return basis.mT @ products


def largest_from_projection(projections: Tensor) -> Tensor:
    """Return the square root of the largest eigenvalue of each projection, NaN where one is not finite."""
    symmetric = ((projections + projections.mT) / 2).double()
    finite = symmetric.isfinite().all(dim=-1).all(dim=-1)
    eigenvalues = torch.linalg.eigvalsh(torch.where(finite[..., None, None], symmetric, 0.0))
    return torch.where(finite, eigenvalues[..., -1].clamp(min=0.0).sqrt(), torch.nan)
