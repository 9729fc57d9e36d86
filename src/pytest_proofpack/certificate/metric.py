"""From a certificate's windows to its primary metric: ratio, interval, drift and tail, with their gates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pytest_proofpack.certificate.bootstrap import (
    PairedMetric,
    is_finite,
    paired_metric,
    perplexity,
    tail_quantiles,
)
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import EvaluatedWindows

MAX_PERPLEXITY = 1e130
"""Quotients of quotients of perplexities up to this one stay within the range of floats."""
_MAX_EXPONENT = 700.0
_MIN_LOSS = -1e-6  # a mean negative log-likelihood is not negative, but for rounding
_MAX_LOSS = 1e39  # above the largest float32; its cube, which the interval needs, is still a float
_VERDICTS = ("acceptable", "drift_acceptable", "hysteresis_applied")


class Metric(NamedTuple):
    """The paired metric of a certificate.

    Attributes:
        block: ``primary_metric``.
        baseline: the baseline's own perplexities, for ``baseline_ref``.
        verdicts: ``acceptable``, ``drift_acceptable``, and ``hysteresis_applied``: whether only the hysteresis makes it
            acceptable.
    """

    block: JsonObject
    baseline: JsonObject
    verdicts: Mapping[str, bool]


def read_windows(evidence: JsonObject, side: str) -> EvaluatedWindows:
    """Read one side's windows; the schema says nothing about the elements of these lists.

    Raises:
        FormatError: a list is not what it should be, or the baseline's perplexity is not finite.
    """
    block, where = evidence["evaluation_windows"][side], f"evaluation_windows.{side}"
    columns = [block[key] for key in ("window_ids", "token_counts", "logloss", "baseline_logloss")]
    if not all(isinstance(column, list) and column and len(column) == len(columns[0]) for column in columns):
        raise FormatError(f"{where}: expected four lists of one length, with one entry per window")
    ids, counts, subject, baseline = columns
    if not all(isinstance(window, str) for window in ids):
        raise FormatError(f"{where}.window_ids: expected strings")
    scored = evidence["dataset"]["seq_len"] - 1
    if not all(type(count) is int and 1 <= count <= scored for count in counts):
        raise FormatError(f"{where}.token_counts: expected whole numbers from 1 to {scored}, the length less one")
    windows = EvaluatedWindows(
        ids, counts, _losses(subject, f"{where}.logloss"), _losses(baseline, f"{where}.baseline_logloss")
    )
    if not (is_finite(windows.baseline) and perplexity(windows.baseline, windows.counts) <= MAX_PERPLEXITY):
        raise FormatError(f"{where}.baseline_logloss: the baseline's perplexity must be finite")
    return windows


def _losses(values: list[object], where: str) -> list[float]:
    """Read losses; a null stands for a value that was not finite."""
    losses = []
    for value in values:
        if value is None:
            losses.append(math.nan)
        elif isinstance(value, int | float) and not isinstance(value, bool) and _MIN_LOSS <= value <= _MAX_LOSS:
            losses.append(float(value))
        else:
            raise FormatError(f"{where}: expected losses in nats, at least 0, or null")
    return losses


def derive_metric(preview: EvaluatedWindows, final: EvaluatedWindows, stats: JsonObject, policy: JsonObject) -> Metric:
    """Return the paired metric.

    Args:
        preview: the certificate's windows that only the drift is read off.
        final: those that everything else is.
        stats: ``dataset.windows.stats``, whose ``bootstrap`` says how to resample.
        policy: the whole policy.

    Raises:
        FormatError: more resamples are asked for than is reasonable.
    """
    rules, bootstrap = policy["primary_metric"], stats["bootstrap"]
    baseline: JsonObject = {
        "kind": "ppl_causal",
        "preview": perplexity(preview.baseline, preview.counts),
        "final": perplexity(final.baseline, final.counts),
    }
    drift = baseline["final"] / baseline["preview"]
    tokens = sum(final.counts) + sum(preview.counts)
    block = _what_was_measured(bootstrap, tokens, final) | {
        "drift_band": {"min": drift * policy["drift"]["min"], "max": drift * policy["drift"]["max"]},
    }
    if reason := _degraded_reason(preview, final):
        state = {"invalid": True, "degraded": True, "degraded_reason": reason}
        return Metric({**block, **state}, baseline, dict.fromkeys(_VERDICTS, False))
    metric = _compared(final, bootstrap)
    interval = [metric.interval.low, metric.interval.high]
    display = [math.exp(min(bound, _MAX_EXPONENT)) for bound in interval]
    acceptable, hysteresis = _within(max(metric.ratio, display[1]), rules["ratio_limit"], rules["hysteresis"])
    evidence = holds_evidence(rules, tokens, sum(final.counts), len(final.ids))
    enough = evidence and bootstrap["replicates"] >= rules["replicates"]
    before = perplexity(preview.subject, preview.counts)
    relative_drift = (metric.subject_perplexity / before) / drift
    block |= {
        "preview": before,
        "final": metric.subject_perplexity,
        "ratio_vs_baseline": metric.ratio,
        "ci": interval,
        "display_ci": display,
        "relative_drift": relative_drift,
        "invalid": False,
        "degraded": False,
        "enough_evidence": enough,
        "suspicious_improvement": metric.ratio < rules["improvement_warn_below"],
    }
    drift_acceptable = policy["drift"]["min"] <= relative_drift <= policy["drift"]["max"]
    verdicts = (acceptable and enough, drift_acceptable, hysteresis and enough)
    return Metric(block, baseline, dict(zip(_VERDICTS, verdicts, strict=True)))


def holds_evidence(rules: Mapping[str, Any], tokens: int, final_tokens: int, final_windows: int) -> bool:
    """Tell whether windows hold the policy's tokens, and the final ones, which the ratio is of, their share.

    Policies of certificates of format 1 demand nothing of the final windows alone.

    Args:
        rules: the section ``primary_metric`` of the policy.
        tokens: scored in all windows.
        final_tokens: scored in the final ones.
        final_windows: how many these are.
    """
    share, windows = rules.get("min_final_share", 0.0), rules.get("min_final_windows", 0)
    needed = rules["min_tokens"]
    return bool(tokens >= needed and final_tokens >= share * needed and final_windows >= windows)


def _what_was_measured(bootstrap: JsonObject, tokens: int, final: EvaluatedWindows) -> JsonObject:
    return {
        "kind": "ppl_causal",
        "unit": "ppl",
        "direction": "lower",
        "aggregation_scope": "token",
        "paired": True,
        "gating_basis": "upper",
        "counts_source": "measured",
        "estimated": False,
        "reps": bootstrap["replicates"],
        "ci_level": 1.0 - bootstrap["alpha"],
        "tokens": tokens,
        "final_tokens": sum(final.counts),
        "final_windows": len(final.ids),
    }


def _degraded_reason(preview: EvaluatedWindows, final: EvaluatedWindows) -> str | None:
    """Say why the subject has no perplexity; None if it has one."""
    if not is_finite([*preview.subject, *final.subject]):
        return "non_finite_loss"
    highest = max(perplexity(side.subject, side.counts) for side in (preview, final))
    return "perplexity_overflow" if highest > MAX_PERPLEXITY else None


def _compared(final: EvaluatedWindows, bootstrap: JsonObject) -> PairedMetric:
    replicates = bootstrap["replicates"]
    if resamples(len(final.ids), replicates) > BUDGETS.resamples:
        raise FormatError(f"{replicates} resamples of {len(final.ids)} windows are more than is allowed")
    return paired_metric(
        final.subject,
        final.baseline,
        final.counts,
        replicates=replicates,
        alpha=bootstrap["alpha"],
        seed=bootstrap["seed"],
    )


def resamples(windows: int, replicates: int) -> int:
    """Return what a bootstrap costs: resampled windows, of resamples and of leaving out one after another."""
    return windows * (windows + replicates)


def _within(value: float, limit: float, hysteresis: float) -> tuple[bool, bool]:
    """Return whether ``value`` is acceptable, and whether only the hysteresis makes it so."""
    return value <= limit + hysteresis, limit < value <= limit + hysteresis


def derive_tail(final: EvaluatedWindows, rules: JsonObject) -> JsonObject:
    """Return the ``primary_metric_tail`` block; ``passed`` is the gate, ``warned`` is set in mode ``warn`` too."""
    if not is_finite(final.subject):
        return {"evaluated": False, "reason": "non_finite_loss", "mode": rules["mode"], "passed": False, "warned": True}
    quantiles = tail_quantiles(final.subject, final.baseline)
    over = quantiles[f"q{round(rules['quantile'] * 100)}"] > rules["quantile_max"]
    return {
        "evaluated": True,
        "mode": rules["mode"],
        "quantiles": quantiles,
        "limit": rules["quantile_max"],
        "warned": over,
        "passed": not (over and rules["mode"] == "fail"),
    }
