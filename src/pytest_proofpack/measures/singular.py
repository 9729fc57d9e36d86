"""Largest singular values of many equally shaped matrices at once, and the norms of their rows and columns.

Batches have shape (matrices, rows, columns), on any device; float32, or on an accelerator bfloat16 as it is stored,
because reading the matrices is all that takes time there. Vectors are kept as rows, shape (matrices, vectors,
columns): the products are then wide ones, which run several times faster than skinny ones on a CPU. Matrices that are
not finite yield numbers that are not finite; nothing raises.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_SLAB_ELEMENTS = 2**26
_TINY = 1e-30


def row_and_column_norms(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Euclidean norms of rows and of columns, shapes (matrices, rows) and (matrices, columns)."""
    if batch.device.type != "cpu":
        norm = torch.linalg.vector_norm
        return norm(batch, dim=2, dtype=torch.float32), norm(batch, dim=1, dtype=torch.float32)
    height = max(1, _SLAB_ELEMENTS // max(1, batch.shape[0] * batch.shape[2]))
    rows = []
    columns = batch.new_zeros(batch.shape[0], batch.shape[2])
    for slab in torch.split(batch, height, dim=1):
        squares = slab.square()
        rows.append(squares.sum(dim=2))
        columns += squares.sum(dim=1)
    return torch.cat(rows, dim=1).sqrt_(), columns.sqrt_()


@functools.lru_cache(maxsize=32)
def random_start(columns: int, seed: int, vectors: int, device: torch.device | None = None) -> Tensor:
    """Return seeded normal numbers, shape (vectors, columns), the same on every device."""
    return torch.randn(vectors, columns, generator=torch.Generator().manual_seed(seed)).to(device)


def largest_singular_values(batch: Tensor, warm: Tensor, start: Tensor, iterations: int) -> Tensor:
    """Estimate the largest singular values, from below.

    The largest result of power iterations from the baseline's right singular vector, close where an edit changed
    little, and from random vectors, because a new dominant direction is orthogonal to the old one. Several of them,
    because a single one may happen to be nearly orthogonal to the new direction too.

    Args:
        batch: matrices.
        warm: right singular vectors to start from, shape (matrices, columns).
        start: random vectors to start from, shape (vectors, columns).
        iterations: how often the vectors are multiplied by W and by its transpose; one or more.

    Returns:
        Shape (matrices,).
    """
    vectors = torch.cat((warm.unsqueeze(1), start.expand(batch.shape[0], -1, -1)), dim=1)
    for _ in range(iterations):
        images = _unit((_unit(vectors).to(batch.dtype) @ batch.mT).float()).to(batch.dtype)
        vectors = (images @ batch).float()
    # Rounding to bfloat16 leaves vectors whose length is not exactly one.
    sigma = vectors.norm(dim=2) / images.float().norm(dim=2).clamp(min=_TINY)
    largest: Tensor = sigma.amax(dim=1)
    return largest


def leading_singular_pairs(batch: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return largest singular values and their right vectors, converged, by subspace iteration and Rayleigh-Ritz.

    Args:
        batch: matrices; those that are not finite are taken for zero.
        start: vectors to start from, shape (block, columns).
        iterations: how often the block is multiplied by W^T W.

    Returns:
        Shapes (matrices,) and (matrices, columns).
    """
    batch = batch.float()
    clean = torch.where(batch.isfinite().all(dim=2).all(dim=1)[:, None, None], batch, 0.0)
    block = start[: min(batch.shape[1:])].expand(batch.shape[0], -1, -1)
    for _ in range(iterations):
        block = _orthonormal((block @ clean.mT) @ clean)
    images = (block @ clean.mT).double()
    values, vectors = torch.linalg.eigh(images @ images.mT)
    leading = (vectors[:, :, -1:].mT.float() @ block).squeeze(1)
    return values[:, -1].clamp(min=0).sqrt().float(), leading


def _unit(vectors: Tensor) -> Tensor:
    """Return the rows, scaled to length one."""
    unit: Tensor = vectors / vectors.norm(dim=2, keepdim=True).clamp(min=_TINY)
    return unit


def _orthonormal(block: Tensor) -> Tensor:
    """Return an orthonormal basis of the span of the rows; any orthonormal vectors where they are zero."""
    scale = block.abs().amax(dim=(1, 2), keepdim=True).clamp(min=_TINY)
    basis: Tensor = torch.linalg.qr((block / scale).mT).Q
    return basis.mT
