"""The variance guard: a branch that explodes, or many that lose a little; the predictive gate is recorded only."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import compact_json, parse_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import ActivationFacts, State, SublayerActivation, activation_contract
from pytest_proofpack.guards.variance import VARIANCE_GUARD, derive_variance, proposed_scales, variance_evidence

RULES = resolve_policy("balanced").section("variance")
BASELINE = 3.0


def facts(ratios: list[float | None]) -> ActivationFacts:
    """Facts of a model whose branches have these multiples of the baseline's variance; None: not finite."""
    sublayers = {
        f"block{index}": SublayerActivation("ffn", index, State.NON_FINITE)
        if ratio is None
        else SublayerActivation("ffn", index, State.MEASURED, 1.0, BASELINE * ratio)
        for index, ratio in enumerate(ratios)
    }
    return ActivationFacts(activation_contract(), "0" * 64, sublayers, {})


def evidence_of(ratios: list[float | None], losses: tuple[list[float], list[float]] | None = None) -> dict[str, Any]:
    return variance_evidence(facts([1.0] * len(ratios)), facts(ratios), losses)


def judged(ratios: list[float | None], losses: tuple[list[float], list[float]] | None = None) -> dict[str, Any]:
    return derive_variance(parse_json(compact_json(evidence_of(ratios, losses)).encode(), "evidence"), RULES)


@pytest.mark.parametrize(
    ("ratios", "status", "reasons"),
    [
        ([1.0, 1.0, 1.0], "pass", []),
        ([1.0, 1.0, 1.0, 1.9, 0.51], "pass", []),
        ([1.0, 1.0, 2.1], "warn", []),
        ([1.0, 1.0, 0.4], "warn", []),
        ([1.0, 1.0, 3.9], "warn", []),
        ([1.0, 1.0, 4.1], "fail", ["ratio_above_max"]),
        ([0.83, 0.84, 0.83], "pass", []),
        ([0.80, 0.81, 0.80], "fail", ["median_above_max"]),
        ([1.25, 0.80, 1.0, 1.3], "fail", ["median_above_max"]),
        ([1.0, 1.0, 0.0], "warn", []),
        ([0.0, 0.0, 1.0], "fail", ["median_above_max"]),
        ([1.0, None, 1.0], "fail", ["branch_not_comparable"]),
        ([], "fail", ["no_branches"]),
    ],
)
def test_outcome(ratios: list[float | None], status: str, reasons: list[str]) -> None:
    derived = judged(ratios)
    assert (derived["status"], derived["reasons"]) == (status, reasons)
    assert derived["passed"] is (status != "fail")
    compact_json(derived)


def test_what_fails_by_a_number_says_by_how_much_and_what_fails_otherwise_why() -> None:
    (gate,), strain = VARIANCE_GUARD.gates, VARIANCE_GUARD.strain
    assert gate.words is not None
    assert strain is not None
    assert strain(judged([1.0, 1.0, 16.0]), RULES) == pytest.approx(2.0)  # ln 16 of ln 4
    apart = judged([1.0, None, 1.0])
    assert strain(apart, RULES) == math.inf
    assert gate.words(apart, RULES)[0].endswith("largest variance ratio 1, and sublayers that can't be compared")


def test_extremes_and_median_are_recorded_and_the_sublayers_named() -> None:
    derived = judged([1.0, 0.25, 8.0])
    assert derived["max_ratio"] == 8.0
    assert derived["min_ratio"] == 0.25
    assert derived["median_log_ratio"] == pytest.approx(math.log(4.0))
    assert derived["branches_above_max"] == {"count": 1, "names": ["block2"]}
    assert derived["branches_outside_warn"] == {"count": 2, "names": ["block1", "block2"]}


def test_scales_restore_the_deviation_by_three_per_cent_at_most() -> None:
    scales = proposed_scales(evidence_of([1.0, 0.98, 1.02, 0.5, 2.0, 0.0, None]))
    assert scales == pytest.approx(
        {
            "block1": math.sqrt(1 / 0.98),
            "block2": math.sqrt(1 / 1.02),
            "block3": 1.03,
            "block4": 0.97,
        }
    )


def test_the_gates_interval_is_students_one_sided() -> None:
    generator = np.random.default_rng(0)
    plain = generator.normal(4.0, 0.3, 8)
    scaled = plain + generator.normal(-0.02, 0.01, 8)
    gate = judged([0.9], (plain.tolist(), scaled.tolist()))["predictive_gate"]
    reference = stats.ttest_1samp(scaled - plain, 0.0, alternative="less").confidence_interval(0.95)
    assert gate["mean_delta"] == pytest.approx(np.mean(scaled - plain))
    assert gate["delta_ci"] == [None, pytest.approx(reference.high)]
    assert gate["gain_ci"] == [pytest.approx(-reference.high), None]
    assert gate["evaluated"] is True


@pytest.mark.parametrize(("shift", "passed"), [(-0.02, True), (-0.002, False), (0.0, False), (0.02, False)])
def test_the_gate_passes_only_where_the_loss_certainly_improves(shift: float, passed: bool) -> None:
    noise = [0.01, -0.01, 0.005, -0.005, 0.002, -0.002, 0.0, 0.0]
    plain = [4.0] * 8
    gate = judged([0.9], (plain, [4.0 + shift + own for own in noise]))["predictive_gate"]
    assert gate["passed"] is passed


@pytest.mark.parametrize(
    ("ratios", "losses", "reason"),
    [
        ([1.0], None, "no_scaling_required"),
        ([0.9], None, "no_calibration"),
        ([0.9], ([4.0, 4.0], [math.nan, 4.0]), "non_finite_loss"),
        ([0.9], ([4.0], [4.1]), "too_few_windows"),
    ],
)
def test_a_gate_that_was_not_evaluated_says_why_and_fails_nothing(
    ratios: list[float | None], losses: tuple[list[float], list[float]] | None, reason: str
) -> None:
    derived = judged(ratios, losses)
    gate = derived["predictive_gate"]
    assert (gate["evaluated"], gate["passed"], gate["reason"]) == (False, False, reason)
    assert derived["passed"] is True


@pytest.mark.parametrize(
    "calibration",
    [
        [],
        {"logloss": [4.0, 4.0]},
        {"logloss": [4.0, 4.0], "scaled_logloss": [4.0]},
        {"logloss": [4.0, "4"], "scaled_logloss": [4.0, 4.0]},
        {"logloss": [4.0, 4.0], "scaled_logloss": [4.0, 4.0], "bonus": 1},
    ],
)
def test_malformed_losses_are_named(calibration: object) -> None:
    with pytest.raises(FormatError, match=r"variance\.calibration"):
        derive_variance({**evidence_of([0.9]), "calibration": calibration}, RULES)


def test_losses_with_scales_are_refused_where_no_scale_was_proposed() -> None:
    losses = {"logloss": [4.0, 4.0], "scaled_logloss": [3.0, 3.0]}
    with pytest.raises(FormatError, match=r"variance\.calibration: .* no scale"):
        derive_variance({**evidence_of([1.0]), "calibration": losses}, RULES)


@pytest.mark.parametrize(("base", "cur"), [(5e-324, 1e308), (1e308, 5e-324), (0.0, 1e308)])
def test_extreme_numbers_are_judged_without_overflow(base: float, cur: float) -> None:
    evidence = copy.deepcopy(evidence_of([0.9, 1.0, 1.0]))
    evidence["branches"]["block0"] |= {"base": base, "cur": cur}
    derived = derive_variance(evidence, RULES)
    assert derived["passed"] is (cur < base)
    compact_json(derived)


def test_a_hostile_policy_is_named() -> None:
    with pytest.raises(FormatError, match=r"variance\.ratio_max"):
        derive_variance(evidence_of([1.0]), {**RULES, "ratio_max": 0.0})
