"""The paired primary metric: what an edit did to perplexity, from two lists of per-window losses.

Baseline and subject see the same windows, so the differences D_i = l_i(subject) - l_i(baseline) carry the whole
comparison: exp of their token-weighted mean is the perplexity ratio, and resampling windows gives its interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytest_proofpack.certificate.bca import bca_bounds
from pytest_proofpack.errors import FormatError

FloatArray = npt.NDArray[np.float64]

TAIL_QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Interval:
    """A two-sided bootstrap interval of the token-weighted mean of D, in nats per token."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedMetric:
    """The comparison on one set of windows, natural logarithms.

    Attributes:
        subject_perplexity: exp(sum t_i l_i / sum t_i) of the subject.
        baseline_perplexity: the same of the baseline.
        ratio: exp(weighted mean D), equal to the quotient of the two perplexities.
        interval: the bootstrap interval of ln(ratio).
    """

    subject_perplexity: float
    baseline_perplexity: float
    ratio: float
    interval: Interval


def perplexity(losses: Sequence[float], token_counts: Sequence[int]) -> float:
    """Return exp(sum t_i l_i / sum t_i); infinity where that overflows, NaN where a loss is NaN.

    Raises:
        FormatError: the lists are empty, differ in length, or a count is not positive.
    """
    mean = _weighted_mean(*_checked(losses, token_counts))
    return math.exp(mean) if mean < 700.0 else (math.nan if math.isnan(mean) else math.inf)


def is_finite(losses: Sequence[float]) -> bool:
    """Tell whether every loss is a finite number."""
    return all(math.isfinite(loss) for loss in losses)


def paired_metric(
    subject: Sequence[float],
    baseline: Sequence[float],
    token_counts: Sequence[int],
    *,
    replicates: int,
    alpha: float,
    seed: int,
) -> PairedMetric:
    """Compare two models on the same windows; all losses must be finite.

    Args:
        subject: mean negative log-likelihood per window, shape (windows,).
        baseline: the same windows under the baseline, shape (windows,).
        token_counts: scored tokens per window, shape (windows,).
        replicates: bootstrap resamples.
        alpha: one minus the confidence level.
        seed: of the resampling, recorded in the certificate.

    Raises:
        FormatError: the lists differ in length, are empty or not finite.
    """
    if not (is_finite(subject) and is_finite(baseline)):
        raise FormatError("a paired comparison needs finite losses on both sides")
    subject_losses, counts = _checked(subject, token_counts)
    baseline_losses, _ = _checked(baseline, token_counts)
    differences = subject_losses - baseline_losses
    mean = _weighted_mean(differences, counts)
    return PairedMetric(
        subject_perplexity=perplexity(subject, token_counts),
        baseline_perplexity=perplexity(baseline, token_counts),
        ratio=math.exp(min(mean, 700.0)),
        interval=bca_interval(differences, counts, replicates=replicates, alpha=alpha, seed=seed),
    )


def bca_interval(differences: FloatArray, weights: FloatArray, *, replicates: int, alpha: float, seed: int) -> Interval:
    """Return the bias-corrected and accelerated bootstrap interval of the weighted mean of ``differences``.

    Windows are resampled together with their token counts (:func:`bca_bounds`). Where the differences do not vary, or
    where there is one window only, the interval has no width.
    """
    mean = _weighted_mean(differences, weights)
    if len(differences) < 2 or np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(differences).max())):
        return Interval(mean, mean)
    low, high = bca_bounds(differences, weights, replicates=replicates, alpha=alpha, seed=seed)
    if not (math.isfinite(low) and math.isfinite(high)):
        # The bias correction is undefined when every resample lies on one side of the mean (a handful of
        # windows that all agree): the range of the differences still bounds the mean of any resample.
        return Interval(float(differences.min()), float(differences.max()))
    return Interval(low, high)


def tail_quantiles(subject: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Return quantiles of D_i over windows as ``{"q50": ..., "q90": ..., "q95": ..., "q99": ..., "max": ...}``."""
    differences = np.asarray(subject, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    quantiles = {f"q{round(level * 100)}": float(np.quantile(differences, level)) for level in TAIL_QUANTILES}
    return {**quantiles, "max": float(differences.max())}


def _checked(losses: Sequence[float], token_counts: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    values = np.asarray(losses, dtype=np.float64)
    counts = np.asarray(token_counts, dtype=np.float64)
    if values.ndim != 1 or values.shape != counts.shape or values.size == 0:
        raise FormatError(
            f"losses and token counts must be two lists of one length, found {values.shape} and {counts.shape}"
        )
    if not np.all(counts > 0):
        raise FormatError("every window needs a positive token count")
    return values, counts


def _weighted_mean(values: FloatArray, weights: FloatArray) -> float:
    # math.fsum does not depend on the order or the width of vector instructions, so every machine agrees.
    return math.fsum((values * weights).tolist()) / math.fsum(weights.tolist())
