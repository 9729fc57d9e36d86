"""The distribution guard: what moved the whole next-token distribution fails, and no evidence can claim otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import compact_json, parse_json
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.guards.distribution import (
    CACHE_BYTES,
    MIN_CACHE_BYTES,
    DistributionFacts,
    cache_bytes,
    derive_distribution,
    distribution_evidence,
    plan_cache,
)

RULES = resolve_policy("balanced").section("distribution")
COUNTS = [100, 100, 50]
NAN = float("nan")

FACTS = DistributionFacts(
    plan=plan_cache(3, 100, 1000),
    kl_mean=(0.01, 0.02, 0.04),
    agreed=(90, 85, 40),
    baseline_right=(60, 50, 20),
    right_to_wrong=(3, 5, 2),
    wrong_to_right=(1, 4, 0),
    kl_q99=0.3,
    kl_max=0.9,
)


def evidence_of(**changes: Any) -> dict[str, Any]:
    """Evidence as a reader gets it: through strict JSON."""
    return parse_json(compact_json(distribution_evidence(replace(FACTS, **changes))).encode(), "evidence")


def judged(**changes: Any) -> dict[str, Any]:
    derived = derive_distribution(evidence_of(**changes), RULES, COUNTS)
    compact_json(derived)
    return derived


def test_numbers_are_weighted_by_tokens() -> None:
    derived = judged()
    assert derived["kl_mean"] == pytest.approx((0.01 * 100 + 0.02 * 100 + 0.04 * 50) / 250)
    assert derived["top1_agreement"] == pytest.approx(215 / 250)
    assert derived["right_to_wrong"] == pytest.approx(10 / 250)
    assert derived["wrong_to_right"] == pytest.approx(5 / 250)
    assert derived["baseline_accuracy"] == pytest.approx(130 / 250)
    assert derived["subject_accuracy"] == pytest.approx(125 / 250)
    assert (derived["tokens"], derived["coverage"]) == (250, 1.0)


@pytest.mark.parametrize(
    ("kl", "status"), [(0.0, "pass"), (0.0499, "pass"), (0.0501, "warn"), (0.1999, "warn"), (0.2001, "fail")]
)
def test_outcome_by_the_policys_limits(kl: float, status: str) -> None:
    derived = judged(kl_mean=(kl,) * 3)
    assert derived["status"] == status
    assert derived["passed"] is (status != "fail")
    assert derived["warned"] is (status != "pass")
    assert derived["invalid"] is False


@pytest.mark.parametrize("problem", [None, "vocabulary_smaller", "not_measured"])
def test_a_subject_without_finite_numbers_fails_and_says_why(problem: str | None) -> None:
    derived = judged(kl_mean=(0.01, NAN, 0.01), kl_q99=NAN, kl_max=NAN, problem=problem)
    assert (derived["passed"], derived["warned"], derived["status"]) == (False, True, "fail")
    assert (derived["invalid"], derived["invalid_reason"]) == (True, problem or "non_finite")
    assert derived["kl_mean"] is None


def test_rounding_below_zero_is_no_contradiction() -> None:
    assert judged(kl_mean=(-5e-7, 0.0, 0.0), kl_q99=0.0, kl_max=1e-7)["status"] == "pass"


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(evidence: dict[str, Any]) -> None:
        place = evidence
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return apply


HOSTILE = {
    "more agreed than there are": (change("final", "agreed", 0, to=101), r"final\.agreed"),
    "a boolean": (change("final", "agreed", 0, to=True), r"final\.agreed"),
    "a fraction": (change("final", "baseline_right", 0, to=60.0), r"final\.baseline_right"),
    "below zero": (change("final", "right_to_wrong", 0, to=-1), r"final\.right_to_wrong"),
    "lost what was not right": (change("final", "baseline_right", 1, to=4), "window 1 contradict"),
    "gained what was right already": (change("final", "baseline_right", 1, to=97), "window 1 contradict"),
    "flipped although agreed": (change("final", "agreed", 2, to=49), "window 2 contradict"),
    "a negative KL": (change("final", "kl_mean", 0, to=-0.001), r"final\.kl_mean"),
    "a KL beyond float32": (change("final", "kl_mean", 0, to=1e300), r"final\.kl_mean"),
    "an integer beyond floats": (change("final", "kl_mean", 0, to=10**400), r"final\.kl_mean"),
    "text": (change("final", "kl_mean", 0, to="0.01"), r"final\.kl_mean"),
    "a window too few": (change("final", "kl_mean", to=[0.01, 0.01]), r"final\.kl_mean"),
    "a window too many": (change("final", "agreed", to=[1, 1, 1, 1]), r"final\.agreed"),
    "an object for a list": (change("final", "agreed", to={"0": 1}), r"final\.agreed"),
    "no windows": (change("final", to=None), r"distribution\.final"),
    "no measurement": (change("measurement", to=[]), r"distribution\.measurement"),
    "fewer log-probabilities than planned": (change("measurement", "top_k", to=16), "the plan is 64"),
    "another size": (change("measurement", "cache_bytes", to=0), "in 0 bytes"),
    "too small a bound": (change("measurement", "cache_bytes_limit", to=1000), "1000 bytes is too small"),
    "no vocabulary": (change("measurement", "vocabulary", to=0), "nothing to measure"),
    "a vocabulary beyond all": (change("measurement", "vocabulary", to=2**40), r"measurement\.vocabulary"),
    "a maximum below a window's mean": (lambda evidence: evidence.update(kl_q99=0.03, kl_max=0.035), "impossible"),
    "a quantile above the maximum": (change("kl_q99", to=1.0), "impossible"),
    "a quantile too low for the mean": (change("kl_q99", to=0.0), "impossible"),
    "no maximum": (change("kl_max", to=None), r"distribution\.kl_max"),
    "an unmeasured window with extremes": (change("final", "kl_mean", 0, to=None), "must be null"),
    "a problem, but measured": (change("problem", to="not_measured"), r"distribution\.problem"),
    "no word about a problem": (lambda evidence: evidence.pop("problem"), r"distribution\.problem"),
    "another direction": (change("measurement", "direction", to="subject_to_baseline"), "baseline_to_subject"),
    "another estimator": (change("measurement", "estimator", to="exact"), "top_k_and_tail_lower_bound"),
    "more than was measured": (change("measurement", "bonus", to=1), r"distribution\.measurement: .* bonus"),
    "another column": (change("final", "bonus", to=[1, 1, 1]), r"distribution\.final: .* bonus"),
    "an unknown problem": (change("problem", to=["x"]), r"distribution\.problem"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_impossible_evidence_is_named(kind: str) -> None:
    apply, message = HOSTILE[kind]
    evidence = copy.deepcopy(evidence_of())
    apply(evidence)
    with pytest.raises(FormatError, match=message):
        derive_distribution(evidence, RULES, COUNTS)


@pytest.mark.parametrize("value", [None, -0.1, "0.2", True])
def test_a_hostile_policy_is_named(value: object) -> None:
    with pytest.raises(FormatError, match=r"resolved_policy\.distribution\.kl_mean_fail"):
        derive_distribution(evidence_of(), {**RULES, "kl_mean_fail": value}, COUNTS)


def test_windows_beyond_the_memory_bound_are_left_out_and_the_rest_is_judged() -> None:
    plan = plan_cache(3, 300_000, 1000, MIN_CACHE_BYTES)
    assert (plan.windows, plan.top_k) == (2, 16)
    derived = derive_distribution(
        distribution_evidence(
            replace(
                FACTS,
                plan=plan,
                **{
                    key: getattr(FACTS, key)[:2]
                    for key in ("kl_mean", "agreed", "baseline_right", "right_to_wrong", "wrong_to_right")
                },
            )
        ),
        RULES,
        [300_000] * 3,
    )
    assert (derived["tokens"], derived["coverage"]) == (600_000, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("windows", "scored", "vocabulary", "top_k", "kept"),
    [
        (200, 127, 1024, 64, 200),
        (100, 511, 152_064, 64, 100),
        (200, 127, 50, 50, 200),
        (1000, 1023, 152_064, 64, 1000),
        (3000, 1023, 152_064, 21, 3000),
        (10_000, 1023, 152_064, 16, 3975),
        (10_000, 1023, 8, 8, 10_000),
    ],
)
def test_memory_is_bounded_by_fewer_values_and_then_by_fewer_windows(
    windows: int, scored: int, vocabulary: int, top_k: int, kept: int
) -> None:
    plan = plan_cache(windows, scored, vocabulary)
    assert (plan.top_k, plan.windows) == (top_k, kept)
    assert plan.bytes <= CACHE_BYTES
    # No more would fit.
    if top_k < min(vocabulary, 64):
        assert cache_bytes(windows * scored, top_k + 1, vocabulary) > CACHE_BYTES
    if kept < windows:
        assert cache_bytes((kept + 1) * scored, top_k, vocabulary) > CACHE_BYTES


def test_a_bound_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="too small"):
        plan_cache(200, 127, 1024, MIN_CACHE_BYTES - 1)
    with pytest.raises(ConfigurationError, match="shorter windows"):
        plan_cache(1, 2**23, 152_064, MIN_CACHE_BYTES)
