"""The best approximation of low rank: by an exact decomposition, or by a randomized range finder when large."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from pytest_proofpack.models.matrices import MatrixView
from pytest_proofpack.models.orthonormal import orthonormal
from pytest_proofpack.models.pipeline import STREAMED, Pipeline
from pytest_proofpack.models.slabs import row_slabs

EXACT_UP_TO = 512
"""Largest smaller side of a matrix that is decomposed exactly."""
TOGETHER = 4
TOGETHER_ELEMENTS = 2**28
"""On a GPU, as many matrices are approximated together, of at most so many elements in all."""
OVERSAMPLING = 64
_TINY = 1e-30
POWER_ITERATIONS = 10
"""With these, the energy captured from a matrix of noise, the hardest spectrum there is, is 0.994 of the best for
1536 x 4096 at rank 32 (0.965 with 32 and 6); with singular values that fall like 1/sqrt(k) it is the best to 1e-5."""


def random_sketch(columns: int, rank: int, seed: int, device: torch.device) -> Tensor:
    """Return seeded normal numbers, shape (columns, rank + :data:`OVERSAMPLING`), the same on every device.

    One serves all matrices of a width: to draw a sketch takes a processor longer than a GPU takes for a matrix.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(columns, rank + OVERSAMPLING, generator=generator).to(device)


def best_of_rank(matrix: Tensor, rank: int, sketch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the approximation of rank ``rank`` with the smallest Frobenius error, and its captured energy (0 to 1).

    A matrix whose smaller side is at most ``rank`` is returned as it is. Large ones are projected on a subspace that
    holds the leading singular vectors (Halko, Martinsson and Tropp 2011, algorithms 4.3 and 4.4): the range of a
    Gaussian sketch, refined by :data:`POWER_ITERATIONS` power iterations. The energy is a float64 scalar on the
    matrix's device.

    Args:
        matrix: shape (rows, columns), float32.
        rank: at least 1.
        sketch: see :func:`random_sketch`; for large matrices only.
    """
    norms = [torch.linalg.vector_norm(slab, dtype=torch.float64) for slab in row_slabs(matrix)]  # copies to float64
    total = torch.stack(norms).square().sum()
    if rank >= min(matrix.shape):
        return matrix, torch.ones_like(total)
    if is_large(matrix.shape, rank):
        basis = _range_basis(matrix, sketch)
        inside = basis.t() @ matrix
        # Only the left singular vectors are needed, and eigenvectors of a small matrix are cheap.
        values, vectors = torch.linalg.eigh(inside.double() @ inside.double().t())
        left = vectors[:, -rank:].float()
        approximation, kept = (basis @ left) @ (left.t() @ inside), values[-rank:]
    else:
        left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
        approximation, kept = (left[:, :rank] * singular[:rank]) @ right[:rank], singular[:rank].double().square()
    return approximation, torch.where(total > 0, kept.sum() / total, 1.0).clamp(max=1.0)


def side_by_side(views: list[MatrixView], work: Callable[[MatrixView], Tensor]) -> list[Tensor]:
    """Return what ``work`` makes of every matrix; on GPUs of some at a time, by threads with streams of their own.

    It is hundreds of short steps per matrix, whose launches and waits last longer than the steps. Every matrix goes
    through the same steps as alone, so nothing that comes out depends on how many are worked on together.
    """
    together = min(TOGETHER, TOGETHER_ELEMENTS // max(math.prod(view.shape) for view in views))
    devices = list(dict.fromkeys(view.tensor.device for view in views))
    if together < 2 or len(views) < 2 or any(device.type not in STREAMED for device in devices):
        return [work(view) for view in views]
    first, rest = work(views[0]), views[1:]  # alone, because torch loads its decompositions when they are first used
    pipeline = Pipeline(devices, together)

    def work_on_share(number: int) -> list[Tensor]:
        with torch.inference_mode(), pipeline.lane():
            return [work(view) for view in rest[number::together]]

    try:
        with ThreadPoolExecutor(together) as pool:
            shares = list(pool.map(work_on_share, range(together)))
    finally:
        pipeline.join()
    return [first, *(shares[index % together][index // together] for index in range(len(rest)))]


def is_large(shape: tuple[int, ...], rank: int) -> bool:
    """Tell whether a matrix of this shape is approximated by the randomized method."""
    return min(shape) > max(EXACT_UP_TO, rank + OVERSAMPLING)


def _range_basis(matrix: Tensor, sketch: Tensor) -> Tensor:
    """Return an orthonormal basis, shape (rows, columns of the sketch), of nearly the leading left singular subspace.

    The basis is made orthonormal anew after every two products, with the matrix and with its transpose. In between,
    float32 loses directions whose singular values are less than 3e-4 of the largest, and 1e-7 of its energy.
    """
    basis = orthonormal(matrix @ sketch, exactly=False)
    for _ in range(POWER_ITERATIONS):
        columns = matrix.t() @ basis
        basis = orthonormal(matrix @ columns.div_(columns.abs().max().clamp(min=_TINY)), exactly=False)
    return orthonormal(basis)
