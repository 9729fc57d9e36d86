"""The bias-corrected and accelerated bootstrap of a weighted mean, a slice of the resamples at a time.

Bit for bit what ``scipy.stats.bootstrap(method="BCa", paired=True)`` of scipy 1.17 gives. Written out because importing
``scipy.stats`` takes as long as verifying thirty certificates, and because that function holds all resamples in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

SLICE = 1 << 16
"""Windows that are resampled at once: half a MiB an array, which stays in the cache. No number depends on it."""


def bca_bounds(
    values: FloatArray, weights: FloatArray, *, replicates: int, alpha: float, seed: int
) -> tuple[float, float]:
    """Return the interval of the weighted mean (Efron 1987; Efron and Tibshirani 1993, 14.3).

    Args:
        values: shape (windows,), two or more.
        weights: resampled together with the values, shape (windows,).
        replicates: resamples.
        alpha: one minus the confidence level.
        seed: of the resampling.

    Returns:
        Lower and upper end; NaN where the correction is undefined, because every resample lies on one side of the mean.
    """
    from scipy.special import ndtr, ndtri  # takes a sixth of a second; only who needs it pays

    with np.errstate(all="ignore"):  # on the way to a NaN that the caller deals with
        weighted = values * weights
        means = np.sort(_means(weighted, weights, _resamples(len(values), replicates, seed)))
        mean = weighted.sum() / weights.sum()
        below = np.count_nonzero(means < mean) + np.count_nonzero(means <= mean)
        bias = ndtri(np.float64(below) / (2 * replicates))
        acceleration = _acceleration(_means(weighted, weights, _jackknife(len(values))))
        tail = float(ndtri((1 - (1.0 - alpha)) / 2))
        shares = []
        for z in (tail, -tail):
            shifted = bias + z
            shares.append(ndtr(bias + shifted / (1 - acceleration * shifted)))
        if any(math.isnan(share) for share in shares):
            return math.nan, math.nan
        return _quantile(means, shares[0]), _quantile(means, shares[1])


def _means(weighted: FloatArray, weights: FloatArray, slices: Iterator[IndexArray]) -> FloatArray:
    """Return the weighted mean of every row of windows; ``weighted`` is values times weights."""
    totals = [weighted.take(rows).sum(axis=-1) / weights.take(rows).sum(axis=-1) for rows in slices]
    return np.concatenate(totals)


def _resamples(windows: int, replicates: int, seed: int) -> Iterator[IndexArray]:
    """Yield resamples of the windows' numbers, a row each; the generator's stream does not depend on the slices."""
    rng = np.random.default_rng(seed)
    for start, stop in _slices(replicates, windows):
        yield rng.integers(0, windows, (stop - start, windows))


def _jackknife(windows: int) -> Iterator[IndexArray]:
    """Yield all windows' numbers but one, a row for each that is left out."""
    kept = np.arange(windows - 1)
    for start, stop in _slices(windows, windows):
        yield kept + (kept >= np.arange(start, stop)[:, None])


def _slices(rows: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, SLICE // width)
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def _acceleration(means: FloatArray) -> np.float64:
    count = float(len(means))
    spread = (count - 1) * (np.mean(means) - means)
    skewness: np.float64 = np.sum(spread**3) / count**3
    variance: np.float64 = np.sum(spread**2) / count**2
    return np.float64(1 / 6 * skewness / variance ** (3 / 2))


def _quantile(ordered: FloatArray, share: np.float64) -> float:
    """Return the quantile between two neighbours of an ordered list (Hyndman and Fan 1996, definition 7)."""
    last = len(ordered) - 1
    place = share * len(ordered) + (1 - share)
    upper, part = place // 1, place % 1
    lower = upper - 1
    part = np.float64(0.0) if lower < 0 else part
    below, above = ordered[int(min(max(lower, 0), last))], ordered[int(min(upper, last))]
    return float((1 - part) * below + part * above)
