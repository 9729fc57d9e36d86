"""Count in the weights of a loaded subject what the label of its edit lets there be, and what it does not.

Only tensors that changed are looked at: edits of some layers are edits. Pruning and low rank are counted over all
values; rounding over groups of neighbours in evenly spaced rows, which tell the grid of a matrix as well as all do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_proofpack.guards.changes import CHANGED, ModelChanges
from pytest_proofpack.guards.label import CLAIMS, FLOAT8_MANTISSAS, FLOAT8_STEP, GROUP_LEVELS, MatrixClaim
from pytest_proofpack.measures.changes import Reference, common_rows
from pytest_proofpack.models.layout import ModelLayout
from pytest_proofpack.models.matrices import matrices_and_vectors
from pytest_proofpack.models.slabs import row_slabs

_SAMPLED_VALUES = 2**20
_SAMPLED_ROWS = 256
_FEWEST_ROWS = 16
_ROUNDING = 2.0**-7
"""A value rounded to bfloat16 is off by at most half of this, relative to itself."""
_SLACK = 1.001  # of float32 arithmetic
_MANTISSA_GAP = 2.0**-9
_SMALLEST_NORMAL_HALF = 2.0**-14
_RANK_SIZES = (256, 1024, 4096)
_CLEARLY_LOW = 0.75
_NOISE = 1.25
"""How often the expected norm of what rounding to bfloat16 adds a singular value has to be, to count."""

Counts = tuple[int, ...]
"""Of :class:`MatrixClaim`, what follows the name."""


def measure_label(
    label: str, subject: PreTrainedModel, layout: ModelLayout, changes: ModelChanges, reference: Reference
) -> tuple[MatrixClaim, ...] | None:
    """Return what was counted in every changed matrix and vector; None where the label claims nothing.

    Args:
        label: what the edit is called.
        subject: the loaded subject.
        layout: the BASELINE's.
        changes: what separates the subject from its baseline.
        reference: gives the baseline's values.
    """
    if label not in CLAIMS:
        return None
    count = _COUNTS[label]
    changed = [tensor.name for tensor in changes.tensors if tensor.state == CHANGED]
    with torch.inference_mode():
        return tuple(
            MatrixClaim(name, *count(base, now))
            for parameter in changed
            for name, base, now in _pairs(subject, layout, parameter, reference)
        )


def _pairs(
    model: PreTrainedModel, layout: ModelLayout, name: str, reference: Reference
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the matrices of one parameter in both models by their labels, shape (..., columns); a vector is one row."""
    now, base = model.get_parameter(name).detach(), reference(name)
    assert base is not None  # it was compared
    base = base.detach().to(now.device)
    now = common_rows(now, base.shape)
    views, _ = matrices_and_vectors(model, layout, [name], {name: now})
    befores, _ = matrices_and_vectors(model, layout, [name], {name: base})
    for view, before in zip(views, befores, strict=True):
        yield view.label, before.tensor, view.tensor.detach()
    if not views:
        yield name, base.reshape(1, -1), now.reshape(1, -1)


def _is_kept(base: Tensor, now: Tensor) -> Tensor:
    """Tell which values are the baseline's, as they are or rounded to a type in which weights are stored.

    Both are float32.
    """
    rounded = (now == base.to(dtype).float() for dtype in (torch.bfloat16, torch.float16))
    kept = now == base
    for own in rounded:
        kept = kept | own
    return kept


def _changes(base: Tensor, now: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, slab by slab, the values in float32 and whether each of them changed."""
    for ours, theirs in zip(row_slabs(base), row_slabs(now), strict=True):
        values = theirs.float()
        yield values, ~_is_kept(ours.float(), values)


def _pruned(base: Tensor, now: Tensor) -> Counts:
    """Count changed values, and those of them that are not zero."""
    counted = sum(
        torch.stack((changed.sum(), (changed & (values != 0)).sum())) for values, changed in _changes(base, now)
    )
    assert isinstance(counted, Tensor)
    values, stray = counted.tolist()
    return values, stray


def _low_rank(base: Tensor, now: Tensor) -> Counts:
    """Count changed values, and tell the rank of a matrix; what changed in a vector is in no matrix."""
    changed = int(sum(int(own.sum()) for _, own in _changes(base, now)))
    matrix = now.reshape(-1, now.shape[-1])
    full = min(matrix.shape)
    if not changed:
        return 0, 0, 0, 0, 0, 0
    if full == 1:
        return changed, changed, 0, 0, 0, 0
    return changed, 0, 0, 0, _rank(matrix), full


def _rank(matrix: Tensor) -> int:
    """Return the numeric rank: how many singular values are above what rounding to bfloat16 makes of zero.

    A matrix of low rank has low rank in any part of its rows and columns, so the whole is decomposed only where that
    does not tell.
    """
    sizes = [size for size in _RANK_SIZES if size < min(matrix.shape)]
    for size in (*sizes, max(matrix.shape)):
        part = matrix[_evenly(matrix.shape[0], size)][:, _evenly(matrix.shape[1], size)].double()
        if part.shape[0] > part.shape[1]:
            part = part.t()
        squares = torch.linalg.eigvalsh(part @ part.t()).clamp_min(0)
        rows, columns = part.shape
        rounding = _ROUNDING / math.sqrt(12) * part.norm() / math.sqrt(rows * columns)  # its deviation, at most
        least = _NOISE * rounding * (math.sqrt(rows) + math.sqrt(columns))
        rank = int((squares.sqrt() > least).sum())
        if rank <= _CLEARLY_LOW * rows:
            break
    return rank


def _evenly(count: int, most: int) -> Tensor:
    """Return at most so many evenly spaced indices."""
    return torch.arange(min(count, most)) * count // min(count, most)


def _rounded(base: Tensor, now: Tensor) -> Counts:
    """Count values that moved by more than a step, and groups of more levels than rounding leaves."""
    return _best(base, now, GROUP_LEVELS, _steps_of_groups)


def _float8(base: Tensor, now: Tensor) -> Counts:
    """Count the same of the grid of an 8-bit float, whatever its scale."""
    return _best(base, now, {32: FLOAT8_MANTISSAS, 16: FLOAT8_MANTISSAS}, _mantissas_of_groups)


Judge = Callable[[Tensor, Tensor, int, bool], tuple[Tensor, Tensor]]
"""Groups of values in both models, shape (groups, size), the most levels, and whether they are stored in float16 ->
which values moved too far, and which groups have too many levels."""


def _best(base: Tensor, now: Tensor, sizes: Mapping[int, int], judge: Judge) -> Counts:
    """Judge groups of neighbours in rows and in columns, of several sizes, and return the counts that fit best.

    Nobody says along which dimension, and over how many values, the scales of a checkpoint are.
    """
    half = now.dtype == torch.float16
    rows = base.reshape(-1, base.shape[-1]), now.reshape(-1, now.shape[-1])
    best: Counts = (0, 0, 0, 0)
    for ours, theirs in (_sampled(*rows), _sampled(rows[0].t(), rows[1].t())):
        for size, most in sizes.items():
            whole = ours.shape[1] // size * size
            if not whole:
                continue
            groups = ours[:, :whole].reshape(-1, size), theirs[:, :whole].reshape(-1, size)
            changed = (~_is_kept(*groups)).any(dim=1)
            before, after = (own[changed] for own in groups)
            if not len(after):
                continue
            stray, off = judge(before, after, most, half)
            counts = after.numel(), int(stray.sum()), len(after), int(off.sum())
            if not best[2] or _misfit(counts) < _misfit(best):
                best = counts
    return best


def _misfit(counts: Counts) -> float:
    values, stray, groups, off_grid = counts
    return stray / values + off_grid / groups


def _sampled(base: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Return evenly spaced ones of the rows that changed, in float32."""
    changed = (base != now).any(dim=1).nonzero().flatten()
    most = max(_FEWEST_ROWS, min(_SAMPLED_ROWS, _SAMPLED_VALUES // max(1, now.shape[1])))
    chosen = changed[_evenly(len(changed), most).to(changed.device)] if len(changed) else changed
    return base[chosen].float(), now[chosen].float()


def _steps_of_groups(base: Tensor, now: Tensor, most: int, _half: bool) -> tuple[Tensor, Tensor]:
    """Take for the step the smallest distance of two levels, and what rounding to bfloat16 can take off it.

    It is at least the true one, of whatever number of bits, so whatever is called stray did move by more than that.
    """
    levels = now.sort(dim=1).values
    gaps = levels.diff(dim=1)
    sizes = levels.abs()
    room = gaps + _ROUNDING * torch.maximum(sizes[:, 1:], sizes[:, :-1])
    step = torch.where(gaps > 0, room, math.inf).amin(dim=1, keepdim=True)
    stray = (now - base).abs() > step * _SLACK
    span = (levels[:, -1:] - levels[:, :1]) / step
    return stray, (span > most * _SLACK).squeeze(1)


def _mantissas_of_groups(base: Tensor, now: Tensor, most: int, half: bool) -> tuple[Tensor, Tensor]:
    """Count distinct mantissas: a scale makes others of them, but not more.

    The step of a value is that of e5m2, or the smallest magnitude there is, where values are next to zero.
    """
    sizes = now.abs()
    largest = sizes.amax(dim=1, keepdim=True)
    normal = sizes > (_SMALLEST_NORMAL_HALF if half else 0.0)  # below, float16 has not got the digits
    mantissas = torch.frexp(torch.where(normal, sizes, largest)).mantissa.sort(dim=1).values
    off = (mantissas.diff(dim=1) > _MANTISSA_GAP).sum(dim=1) + 1 > most
    smallest = torch.where(sizes > 0, sizes, math.inf).amin(dim=1, keepdim=True)
    stray = (now - base).abs() > (FLOAT8_STEP * sizes + smallest) * _SLACK
    return stray, off


_COUNTS: Mapping[str, Callable[[Tensor, Tensor], Counts]] = {
    "quant_rtn": _rounded,
    "fp8_quant": _float8,
    "fp8": _float8,
    "magnitude_prune": _pruned,
    "lowrank_svd": _low_rank,
}
