"""Largest singular values of many equally shaped matrices at once, and the norms of their rows and columns.

Batches have shape (matrices, rows, columns), on any device and in any dtype. What is computed in float32 of matrices
in another dtype is computed slab by slab, a bounded number of rows converted at a time, so that nowhere a copy of a
large matrix exists. Vectors are kept as rows, shape (matrices, vectors, columns): the products are then wide ones,
which run several times faster than skinny ones on a CPU. Matrices that are not finite yield numbers that are not
finite; nothing raises.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from pytest_proofpack.models.orthonormal import orthonormal

CPU_BATCH_ELEMENTS = 2**20
BATCH_ELEMENTS = 2**28
"""Elements of one batch, and of a slab: on a CPU they should stay in the cache, on an accelerator fill the device."""

_TINY = 1e-30


def batch_elements(device: torch.device) -> int:
    """Return how many elements are worked on together; a single matrix may have more."""
    return CPU_BATCH_ELEMENTS if device.type == "cpu" else BATCH_ELEMENTS


def row_and_column_norms(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Euclidean norms of rows and of columns, shapes (matrices, rows) and (matrices, columns)."""
    if batch.device.type != "cpu":
        norm = torch.linalg.vector_norm
        return norm(batch, dim=2, dtype=torch.float32), norm(batch, dim=1, dtype=torch.float32)
    rows, columns = torch.zeros(batch.shape[:2]), torch.zeros(batch.shape[0], batch.shape[2])
    height = _slab_height(batch)
    for start in range(0, batch.shape[1], height):
        squares = batch[:, start : start + height].to(torch.float32, copy=True).square_()
        rows[:, start : start + height] = squares.sum(dim=2)
        columns += squares.sum(dim=1)
    return rows.sqrt_(), columns.sqrt_()


@functools.lru_cache(maxsize=32)
def random_start(columns: int, seed: int, vectors: int, device: torch.device | None = None) -> Tensor:
    """Return seeded normal numbers, shape (vectors, columns), the same on every device."""
    return torch.randn(vectors, columns, generator=torch.Generator().manual_seed(seed)).to(device)


def largest_by_power_iteration(batch: Tensor, warm: Tensor, start: Tensor, iterations: int) -> Tensor:
    """Estimate the largest singular values, from below.

    The largest result of power iterations from the baseline's right singular vector, close where an edit changed
    little, and from random vectors, because a new dominant direction is orthogonal to the old one. Several of them,
    because a single one may happen to be nearly orthogonal to the new direction too. On an accelerator, bfloat16
    matrices are multiplied as they are stored, because reading them is all that takes time there.

    Args:
        batch: matrices.
        warm: right singular vectors to start from, shape (matrices, columns).
        start: random vectors to start from, shape (vectors, columns).
        iterations: how often the vectors are multiplied by W and by its transpose; one or more.

    Returns:
        Shape (matrices,).
    """
    vectors = torch.cat((warm.unsqueeze(1), start.expand(batch.shape[0], -1, -1)), dim=1)
    as_stored = batch.dtype == torch.bfloat16 and batch.device.type != "cpu"
    dtype = torch.bfloat16 if as_stored else torch.float32
    for _ in range(iterations):
        images = _unit(_times_transposed(_unit(vectors), batch, dtype)).to(dtype)
        vectors = _times(images, batch, dtype)
    # Rounding to bfloat16 leaves vectors whose length is not exactly one.
    sigma = vectors.norm(dim=2) / images.float().norm(dim=2).clamp(min=_TINY)
    largest: Tensor = sigma.amax(dim=1)
    return largest


def leading_singular_pairs(batch: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return largest singular values and their right vectors, converged, by subspace iteration and Rayleigh-Ritz.

    Args:
        batch: matrices; those whose products are not finite are taken for zero.
        start: vectors to start from, shape (block, columns).
        iterations: how often the block is multiplied by W^T W.

    Returns:
        Shapes (matrices,) and (matrices, columns).
    """
    block = start[: min(batch.shape[1:])].expand(batch.shape[0], -1, -1)
    for left in reversed(range(iterations)):
        block = _orthonormal(_finite_or_zero(_times_square(block, batch)), exactly=not left)
    images = _finite_or_zero(_times_transposed(block, batch, torch.float32)).double()
    values, vectors = torch.linalg.eigh(images @ images.mT)
    leading = (vectors[:, :, -1:].mT.float() @ block).squeeze(1)
    return values[:, -1].clamp(min=0).sqrt().float(), leading


def product_as_stored(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Return X M of float32 vectors and bfloat16 matrices, in float32, reading M as it is stored.

    A float32 number is the sum of three that bfloat16 holds exactly (Henry, Tang and Heinecke 2019, "Leveraging the
    bfloat16 artificial intelligence datatype for higher-precision computations"): three times as many vectors take no
    longer, where reading the matrices is all that takes time.

    Args:
        vectors: shape (matrices, vectors, rows).
        matrices: shape (matrices, rows, columns).

    Returns:
        Shape (matrices, vectors, columns).
    """
    high = vectors.bfloat16()
    rest = vectors - high.float()
    middle = rest.bfloat16()
    low = (rest - middle.float()).bfloat16()
    parts = torch.cat((high, middle, low), dim=1)
    if parts.device.type == "cuda":
        products = torch.bmm(parts, matrices, out_dtype=torch.float32)
    else:
        products = parts.float() @ matrices.float()
    return products.reshape(len(vectors), 3, vectors.shape[1], -1).sum(dim=1)


def _times_transposed(vectors: Tensor, batch: Tensor, dtype: torch.dtype) -> Tensor:
    """Return X W^T, computed in ``dtype``, in float32."""
    images = vectors.new_empty(*vectors.shape[:2], batch.shape[1])
    for rows, slab in _slabs(batch, dtype):
        images[:, :, rows] = vectors.to(dtype) @ slab.mT
    return images


def _times(images: Tensor, batch: Tensor, dtype: torch.dtype) -> Tensor:
    """Return Y W, computed in ``dtype``, in float32; Y has an entry for every row of W."""
    total = images.new_zeros(())
    for rows, slab in _slabs(batch, dtype):
        total = total + images[:, :, rows] @ slab
    return total.float()


def _times_square(vectors: Tensor, batch: Tensor) -> Tensor:
    """Return X W^T W, in float32; of bfloat16 matrices on a GPU to 1e-5, because of how its products are added up."""
    if batch.dtype == torch.bfloat16 and batch.device.type == "cuda" and torch.version.cuda is not None:
        return product_as_stored(product_as_stored(vectors, batch.mT), batch)
    total = vectors.new_zeros(())
    for _, slab in _slabs(batch, vectors.dtype):
        total = total + (vectors @ slab.mT) @ slab
    return total


def _slabs(batch: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of a batch in ``dtype``, and which they are: all at once if that is how they are stored.

    Otherwise slab by slab, each in the same memory: it holds until the next one is asked for.
    """
    if batch.dtype == dtype:
        yield slice(None), batch
        return
    height = _slab_height(batch)
    memory = torch.empty(len(batch), min(height, batch.shape[1]), batch.shape[2], dtype=dtype, device=batch.device)
    for start in range(0, batch.shape[1], height):
        part = batch[:, start : start + height]
        yield slice(start, start + height), memory[:, : part.shape[1]].copy_(part)


def _slab_height(batch: Tensor) -> int:
    """Return how many rows of every matrix of a batch are worked on at a time."""
    return max(1, batch_elements(batch.device) // max(1, batch.shape[0] * batch.shape[2]))


def _finite_or_zero(vectors: Tensor) -> Tensor:
    """Return vectors, all zero for a matrix where one is not finite: decompositions raise on those."""
    return torch.where(vectors.isfinite().all(dim=2).all(dim=1)[:, None, None], vectors, 0.0)


def _unit(vectors: Tensor) -> Tensor:
    """Return the rows, scaled to length one."""
    unit: Tensor = vectors / vectors.norm(dim=2, keepdim=True).clamp(min=_TINY)
    return unit


def _orthonormal(block: Tensor, *, exactly: bool) -> Tensor:
    """Return an orthonormal basis of the span of the rows, or nearly one."""
    scale = block.abs().amax(dim=(1, 2), keepdim=True).clamp(min=_TINY)
    return orthonormal((block / scale).mT, exactly=exactly).mT
