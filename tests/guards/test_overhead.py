"""The overhead guard: losses with observers must be those without, in their numbers and in where they have none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.overhead import derive_overhead, overhead_evidence

RULES = resolve_policy("balanced").section("guard_overhead")
OBSERVED = [3.0, 4.0, 5.0]
COUNTS = [100, 300, 600]


def judged(bare: list[float], observed: list[float] | None = None) -> JsonObject:
    evidence = parse_json(compact_json(overhead_evidence(bare)).encode(), "evidence")
    derived = derive_overhead(evidence, RULES, observed or OBSERVED, COUNTS)
    compact_json(derived)
    return derived


def test_equal_losses_have_a_ratio_of_exactly_one() -> None:
    assert judged(OBSERVED) == {
        "evaluated": True,
        "mode": "measured",
        "windows": 3,
        "overhead_ratio": 1.0,
        "overhead_threshold": 1e-9,
        "passed": True,
    }


@pytest.mark.parametrize(
    ("change", "passes"), [(5e-10, True), (-5e-10, True), (2e-9, False), (-2e-9, False), (1e-3, False)]
)
def test_the_limit_holds_on_both_sides(change: float, passes: bool) -> None:
    assert judged([loss + change for loss in OBSERVED])["passed"] is passes


def test_the_ratio_is_that_of_perplexities_and_counts_tokens() -> None:
    derived = judged([3.0, 3.9], OBSERVED)
    assert derived["windows"] == 2
    assert derived["overhead_ratio"] == pytest.approx(math.exp(0.1 * 300 / 400))


def test_differences_that_cancel_in_windows_of_equal_length_are_seen_by_their_tokens() -> None:
    assert judged([3.0 + 0.01, 4.0 - 0.01])["passed"] is False


@pytest.mark.parametrize(("bare", "observed"), [(math.nan, 3.0), (math.inf, 3.0), (3.0, math.nan)])
def test_a_loss_on_one_side_only_fails(bare: float, observed: float) -> None:
    assert judged([bare, 4.0], [observed, 4.0, 5.0])["passed"] is False


def test_a_subject_without_any_finite_loss_is_not_the_observers_fault() -> None:
    derived = judged([math.nan, math.nan], [math.nan] * 3)
    assert (derived["passed"], derived["overhead_ratio"]) == (True, 1.0)


@pytest.mark.parametrize("bare", [[1e38], [0.0]])
def test_losses_far_apart_give_a_number_all_the_same(bare: list[float]) -> None:
    observed = [0.0, 0.0, 0.0] if bare[0] else [1e38, 0.0, 0.0]
    derived = judged(bare, observed)
    assert math.isfinite(derived["overhead_ratio"])
    assert derived["passed"] is False


@pytest.mark.parametrize(
    "bare", [None, [], {}, "3.0", [3.0] * 4, ["3.0"], [True], [[3.0]], [1e39], [-1e39], [10**400]], ids=str
)
def test_malformed_evidence_is_named(bare: Any) -> None:
    with pytest.raises(FormatError, match=r"guard_overhead\.bare_logloss: expected"):
        derive_overhead({"mode": "measured", "bare_logloss": bare}, RULES, OBSERVED, COUNTS)


def test_absent_evidence_is_named() -> None:
    with pytest.raises(FormatError, match=r"guard_overhead\.bare_logloss"):
        derive_overhead({"mode": "measured"}, RULES, OBSERVED, COUNTS)
