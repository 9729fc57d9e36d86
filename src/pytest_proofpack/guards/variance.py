"""The variance guard: how much of each sublayer's output variance is left, subject over baseline, on the same windows.

Heavy pruning takes a little from every sublayer, which no single ratio shows but their median does. The predictive gate
of InvarLock 0.3.7 asks whether giving each sublayer its old variance back, by a few per cent at most, would improve the
loss. It is recorded and gates nothing: the subject is never changed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import (
    ActivationFacts,
    PairedSublayer,
    exact_mapping,
    finite_or_none,
    number,
    paired_sublayers,
    sublayer_baselines,
    sublayer_evidence,
)
from pytest_proofpack.guards.coverage import activation_coverage, coverage_words, covered
from pytest_proofpack.guards.guard import NAMES_SHOWN, RMT, Block, Case, Gate, Guard, Rules, Shared, Words

SCALE_LIMIT = 0.03
"""A proposed scale differs from 1 by at most this much."""

GATE_ALPHA = 0.05
"""One minus the confidence of the predictive gate's one-sided interval."""

_CALIBRATION_KEYS = frozenset({"logloss", "scaled_logloss"})
_HUGE = 1e100
"""Losses beyond it are as good as infinite; their squares would be."""


def variance_evidence(
    baseline: ActivationFacts,
    subject: ActivationFacts,
    losses: tuple[Sequence[float], Sequence[float]] | None = None,
) -> JsonObject:
    """Return what a certificate records as evidence under ``variance``.

    Args:
        baseline: facts about the unedited model.
        subject: facts about the edited one, on the same windows.
        losses: per-window losses of the subject on the calibration windows, as it is and with the proposed scales
            applied; None if no scale was proposed.
    """
    block: JsonObject = {"branches": sublayer_evidence(baseline, subject, "variance")}
    if losses is not None:
        plain, scaled = ([finite_or_none(loss) for loss in side] for side in losses)
        block["calibration"] = {"logloss": plain, "scaled_logloss": scaled}
    return block


def proposed_scales(evidence: Mapping[str, Any]) -> dict[str, float]:
    """Return the scale sqrt(variance_base / variance_cur) of every sublayer, held within 1 +- :data:`SCALE_LIMIT`.

    Sublayers whose variance is the baseline's, or could not be measured, or is zero, get none.

    Raises:
        FormatError: the evidence is not what :func:`variance_evidence` writes.
    """
    return _scales(paired_sublayers(evidence, "variance"))


def _scales(sublayers: Sequence[PairedSublayer]) -> dict[str, float]:
    lowest, highest = math.log1p(-SCALE_LIMIT), math.log1p(SCALE_LIMIT)
    return {
        sublayer.name: math.exp(min(max(-0.5 * sublayer.log_ratio, lowest), highest))
        for sublayer in sublayers
        if math.isfinite(sublayer.log_ratio) and sublayer.log_ratio != 0.0
    }


def derive_variance(evidence: Mapping[str, Any], rules: Mapping[str, Any]) -> JsonObject:
    """Judge the evidence of :func:`variance_evidence` by the ``variance`` section of a policy.

    ``passed`` is false where a sublayer can't be compared, where a ratio is above ``ratio_max``, or where the median of
    abs(ln ratio) over the comparable sublayers is above ``median_log_ratio_max``. It is the gate
    ``variance_stable``. Nothing measured is not passed either.

    Raises:
        FormatError: the evidence is not what :func:`variance_evidence` writes.
    """
    sublayers = paired_sublayers(evidence, "variance")
    ratio_max, warn_max, warn_min = (
        _log_limit(rules, key) for key in ("ratio_max", "ratio_warn_max", "ratio_warn_min")
    )
    median_max = number(rules["median_log_ratio_max"], "resolved_policy.variance.median_log_ratio_max")
    comparable = [sublayer for sublayer in sublayers if sublayer.problem is None]
    median = statistics.median(abs(sublayer.log_ratio) for sublayer in comparable) if comparable else math.inf
    above = [sublayer.name for sublayer in comparable if sublayer.log_ratio > ratio_max]
    outside = [sublayer.name for sublayer in comparable if not warn_min <= sublayer.log_ratio <= warn_max]
    failed = {
        "no_branches": not sublayers,
        "branch_not_comparable": len(comparable) < len(sublayers),
        "ratio_above_max": bool(above),
        "median_above_max": bool(comparable) and median > median_max,
    }
    passed = not any(failed.values())
    ratios = [ratio for sublayer in comparable if (ratio := sublayer.ratio) is not None]
    scales = _scales(sublayers)
    return {
        "evaluated": bool(sublayers),
        "enabled": False,
        "monitor_only": True,
        "passed": passed,
        "status": ("warn" if outside else "pass") if passed else "fail",
        "reasons": [reason for reason, applies in failed.items() if applies],
        "max_ratio": max(ratios, default=None),
        "min_ratio": min(ratios, default=None),
        "median_log_ratio": finite_or_none(median),
        "branches_above_max": {"count": len(above), "names": above[:NAMES_SHOWN]},
        "branches_outside_warn": {"count": len(outside), "names": outside[:NAMES_SHOWN]},
        "proposed_scales": scales,
        "predictive_gate": _predictive_gate(evidence.get("calibration"), bool(scales)),
    }


def _log_limit(rules: Mapping[str, Any], key: str) -> float:
    value = number(rules[key], f"resolved_policy.variance.{key}")
    if value <= 0.0:
        raise FormatError(f"resolved_policy.variance.{key}: a ratio is positive, found {value}")
    return math.log(value)


def _predictive_gate(calibration: object, proposed: bool) -> JsonObject:
    """Tell whether the scales would improve the loss: upper end of mean D below 0, D = scaled - plain, by window."""
    outcome: JsonObject = {
        "evaluated": False,
        "passed": False,
        "reason": "no_calibration" if proposed else "no_scaling_required",
        "alpha": GATE_ALPHA,
        "mean_delta": None,
        "delta_ci": [None, None],
        "gain_ci": [None, None],
    }
    if calibration is None:
        return outcome
    if not proposed:
        raise FormatError("variance.calibration: losses with scales applied, but no scale follows from the branches")
    calibration = exact_mapping(calibration, "variance.calibration", _CALIBRATION_KEYS)
    plain, scaled = (_losses(calibration, key) for key in ("logloss", "scaled_logloss"))
    if len(plain) != len(scaled):
        raise FormatError("variance.calibration: the two lists of losses differ in length")
    differences = [after - before for before, after in zip(plain, scaled, strict=True)]
    if len(differences) < 2 or not all(abs(difference) < _HUGE for difference in differences):
        return {**outcome, "reason": "too_few_windows" if len(differences) < 2 else "non_finite_loss"}
    mean, upper = statistics.fmean(differences), _upper_end(differences)
    return {
        **outcome,
        "evaluated": True,
        "passed": upper < 0.0,
        "reason": "ci_gain_met" if upper < 0.0 else "ci_contains_zero",
        "mean_delta": mean,
        "delta_ci": [None, upper],
        "gain_ci": [-upper, None],
    }


def _upper_end(differences: Sequence[float]) -> float:
    """Return the upper end of the one-sided interval of the mean, by Student's t."""
    from scipy.special import stdtrit  # the quantile of Student's t; scipy.stats would take half a second to import

    count = len(differences)
    error = statistics.stdev(differences) / math.sqrt(count)
    return statistics.fmean(differences) + float(stdtrit(count - 1, 1.0 - GATE_ALPHA)) * error


def _losses(calibration: Mapping[str, Any], key: str) -> list[float]:
    values = calibration[key]
    if not isinstance(values, list):
        raise FormatError(f"variance.calibration.{key}: expected a list of losses")
    return [math.nan if value is None else number(value, f"variance.calibration.{key}") for value in values]


def _words(block: Block, rules: Rules) -> Words:
    measured = (
        f"median of |ln(variance ratio)| {words.scalar(block['median_log_ratio'])}, largest variance ratio "
        f"{words.scalar(block['max_ratio'])}"
    )
    demanded = (
        f"variance ratios at most {words.limit(rules['ratio_max'])}, the median of |ln(variance ratio)| at most "
        f"{words.limit(rules['median_log_ratio_max'])}, every sublayer judged"
    )
    apart = ", and sublayers that can't be compared" if "branch_not_comparable" in block["reasons"] else ""
    return measured + apart + coverage_words(block), demanded


def _derived(block: Block, rules: Rules, case: Case) -> JsonObject:
    derived = covered(derive_variance(block, rules), "passed", activation_coverage(block, case.inventory))
    if "coverage" in derived and not derived["coverage"]["complete"]:
        derived |= {"status": "fail", "reasons": [*derived["reasons"], "branches_left_out"]}
    return derived


def _strain(block: Block, rules: Rules) -> float:
    """Return the larger share: of the largest ratio in its limit, or of the median in its own."""
    if block["median_log_ratio"] is None:
        return math.inf
    largest = math.log(block["max_ratio"]) / math.log(rules["ratio_max"]) if block["max_ratio"] else 0.0
    share = max(0.0, largest, float(block["median_log_ratio"]) / rules["median_log_ratio_max"])
    return share if block["passed"] or share > 1.0 else math.inf


VARIANCE_GUARD = Guard(
    name="variance",
    judges="the variance of activations",
    evidence=frozenset({"branches", "calibration"}),
    derive=_derived,
    gates=(
        Gate(
            "variance_stable",
            lambda block: block["passed"],
            _words,
            title="variance of sublayer outputs",
        ),
    ),
    signal=RMT,
    warnings={"variance": lambda block: block["status"] == "warn"},
    section="variance",
    tightens={"ratio_max": "max", "median_log_ratio_max": "max"},
    followed=("max_ratio",),
    strain=_strain,
    shared=Shared(sample=lambda block: {"variances of the baseline": sublayer_baselines(block)}),
)
