"""The RMT guard judges pairs of edge risks: growth beyond what other text does, or nothing to compare, is unstable."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import compact_json, parse_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import ActivationFacts, State, SublayerActivation, activation_contract
from pytest_proofpack.guards.rmt import RMT_GUARD, derive_rmt, log_epsilon, rmt_evidence

RULES = resolve_policy("balanced").section("rmt")
NULL = {"ffn": [0.001 * draw for draw in range(100)], "attn": [0.05] * 24}


def facts(edges: dict[str, float | State], **changes: Any) -> ActivationFacts:
    """Facts of a model with branches ``<block>.<family>``; a state instead of an edge says why there is none."""
    sublayers = {}
    for name, edge in edges.items():
        block, group = name.split(".")
        state, value = (edge, None) if isinstance(edge, State) else (State.MEASURED, edge)
        sublayers[name] = SublayerActivation(group, int(block), state, value, value)
    values = {"contract": activation_contract(), "windows_sha256": "0" * 64, "sublayers": sublayers, "routers": {}}
    return ActivationFacts(**{**values, **changes})


BASE = facts({"0.attn": 1.0, "0.ffn": 2.0, "1.attn": 0.5, "1.ffn": 4.0})


def judged(edges: dict[str, float | State], null: dict[str, list[float]] | None = None) -> dict[str, Any]:
    evidence = rmt_evidence(BASE, facts(edges), null)
    return derive_rmt(parse_json(compact_json(evidence).encode(), "evidence"), RULES)


def test_an_unchanged_model_is_stable_with_ratios_of_exactly_one() -> None:
    derived = derive_rmt(rmt_evidence(BASE, BASE), RULES)
    assert derived["stable"] is True
    assert [group["ratio"] for group in derived["families"].values()] == [1.0, 1.0]
    assert derived["measurement_contract_match"] is True


def test_the_worst_sublayer_of_a_group_decides_however_small_it_is() -> None:
    derived = judged({"0.attn": 1.0, "0.ffn": 2.0, "1.attn": 0.9, "1.ffn": 4.1})
    attention = derived["families"]["attn"]
    assert (attention["branch"], attention["edge_base"], attention["edge_cur"]) == ("1.attn", 0.5, 0.9)
    assert attention["log_ratio"] == pytest.approx(math.log(1.8))
    assert derived["stable"] is False
    assert [(row["family"], row["reason"]) for row in derived["epsilon_violations"]] == [("attn", "above_epsilon")]


def test_what_fails_by_a_number_says_by_how_much_and_what_fails_otherwise_why() -> None:
    (gate,), strain = RMT_GUARD.gates, RMT_GUARD.strain
    assert gate.words is not None
    assert strain is not None
    grown = judged({"0.attn": 1.0, "0.ffn": 2.0, "1.attn": 0.9, "1.ffn": 4.0})
    assert strain(grown, RULES) == pytest.approx(math.log(1.8) / grown["families"]["attn"]["log_epsilon"])
    apart = judged({"0.attn": State.NON_FINITE, "0.ffn": 2.0, "1.attn": 0.5, "1.ffn": 4.0})
    assert strain(apart, RULES) == math.inf
    assert " (0.attn: non finite)" in gate.words(apart, RULES)[0]


def test_only_growth_counts() -> None:
    assert judged({"0.attn": 0.0, "0.ffn": 0.01, "1.attn": 0.01, "1.ffn": 0.0})["stable"] is True


@pytest.mark.parametrize(("growth", "stable"), [(1.499, True), (1.501, False)])
def test_without_calibration_the_tiers_default_of_half_again_is_the_limit(growth: float, stable: bool) -> None:
    derived = judged({"0.attn": 1.0, "0.ffn": 2.0 * growth, "1.attn": 0.5, "1.ffn": 4.0})
    assert derived["stable"] is stable
    assert derived["epsilon_source"] == {"attn": "tier_default", "ffn": "tier_default"}


def test_the_recorded_names_mean_what_they_mean_in_invarlock() -> None:
    derived = judged({"0.attn": 1.0, "0.ffn": 2.2, "1.attn": 0.5, "1.ffn": 4.0})
    group = derived["families"]["ffn"]
    assert group["allowed"] == pytest.approx((1.0 + group["epsilon"]) * group["edge_base"])
    assert group["delta"] == pytest.approx(0.1)
    assert derived["epsilon_by_family"]["ffn"] == pytest.approx(0.5)
    assert derived["edge_risk_by_family_base"]["ffn"] == 2.0
    assert derived["edge_risk_by_family"]["ffn"] == 2.2
    assert derived["max_edge_ratio"] == pytest.approx(1.1)


def test_calibration_takes_a_quantile_of_the_null_per_group() -> None:
    derived = judged({"0.attn": 1.06, "0.ffn": 2.18, "1.attn": 0.5, "1.ffn": 4.0}, NULL)
    assert derived["families"]["ffn"]["log_epsilon"] == pytest.approx(np.quantile(NULL["ffn"], 0.99))
    assert derived["epsilon_source"] == {"attn": "calibrated", "ffn": "calibrated"}
    assert [row["family"] for row in derived["epsilon_violations"]] == ["attn"]


@pytest.mark.parametrize(
    ("null", "expected"),
    [
        ([0.001] * 24, (0.01, "calibrated_floor")),
        ([-0.5] * 24, (0.01, "calibrated_floor")),
        ([5.0] * 24, (math.log(2.0), "calibrated_ceiling")),
        ([0.02] * 23, (math.log(1.5), "tier_default")),
        ([0.02] * 24, (0.02, "calibrated")),
    ],
)
def test_calibration_stays_within_the_policys_bounds(null: list[float], expected: tuple[float, str]) -> None:
    epsilon, source = log_epsilon(null, RULES)
    assert epsilon == pytest.approx(expected[0])
    assert source == expected[1]


@pytest.mark.parametrize("state", [State.MISSING, State.RESHAPED, State.NON_FINITE])
def test_a_sublayer_that_cannot_be_compared_fails(state: State) -> None:
    derived = judged({"0.attn": 1.0, "0.ffn": 2.0, "1.attn": 0.5, "1.ffn": state})
    assert derived["stable"] is False
    assert derived["epsilon_violations"][0]["reason"] == state.value
    assert "ffn" not in derived["edge_risk_by_family"]
    assert derived["families"]["attn"]["ratio"] == 1.0


def test_a_sublayer_that_the_baseline_could_not_be_measured_at_fails_too() -> None:
    broken = facts({"0.ffn": State.NON_FINITE, "1.ffn": 1.0})
    derived = derive_rmt(rmt_evidence(broken, facts({"0.ffn": 1.0, "1.ffn": 1.0})), RULES)
    assert [row["reason"] for row in derived["epsilon_violations"]] == ["non_finite"]


def test_a_sublayer_the_subject_lacks_is_missing() -> None:
    derived = judged({"0.attn": 1.0, "0.ffn": 2.0, "1.attn": 0.5})
    assert [(row["branch"], row["reason"]) for row in derived["epsilon_violations"]] == [("1.ffn", "missing")]


def test_a_silent_sublayer_that_wakes_fails_and_one_that_stays_silent_does_not() -> None:
    silent = facts({"0.ffn": 0.0, "1.ffn": 1.0})
    assert derive_rmt(rmt_evidence(silent, silent), RULES)["stable"] is True
    woken = derive_rmt(rmt_evidence(silent, facts({"0.ffn": 0.1, "1.ffn": 1.0})), RULES)
    assert woken["stable"] is False
    assert woken["families"]["ffn"]["ratio"] is None


def test_another_contract_than_the_baselines_is_unstable() -> None:
    other = facts({name: own.edge or 0.0 for name, own in BASE.sublayers.items()}, contract=activation_contract(seed=1))
    derived = derive_rmt(rmt_evidence(other, BASE), RULES)
    assert derived["measurement_contract_match"] is False
    assert derived["stable"] is False


@pytest.mark.parametrize("changes", [{"seed": 1}, {"iterations": 4}, {"windows": 1}, {"seed": 0.0}, {"seed": False}])
def test_another_contract_than_the_policys_is_refused(changes: dict[str, Any]) -> None:
    other = facts(
        {name: own.edge or 0.0 for name, own in BASE.sublayers.items()}, contract=activation_contract(**changes)
    )
    with pytest.raises(FormatError, match="the measurement contract is not the policy's"):
        derive_rmt(rmt_evidence(other, other), RULES)


def test_a_guard_that_saw_no_sublayer_vouches_for_nothing() -> None:
    nothing = facts({})
    derived = derive_rmt(rmt_evidence(nothing, nothing), RULES)
    assert (derived["evaluated"], derived["stable"]) == (False, False)
    compact_json(derived)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("branches",), []),
        (("branches", "0.ffn"), None),
        (("branches", "0.ffn", "family"), "experts"),
        (("branches", "0.ffn", "cur"), "2.0"),
        (("branches", "0.ffn", "cur"), True),
        (("branches", "0.ffn", "cur"), -1.0),
        (("branches", "0.ffn", "cur"), 10**400),
        (("branches", "0.ffn", "cur"), None),
        (("branches", "0.ffn", "state"), "missing"),
        (("branches", "0.ffn", "state"), ["measured"]),
        (("branches", "0.ffn", "block"), True),
        (("branches", "0.ffn", "block"), -1),
        (("branches", "0.ffn", "bonus"), 1),
        (("windows_sha256",), "0" * 63),
        (("windows_sha256",), None),
        (("null_log_ratios",), {"embed": [0.1] * 24}),
        (("null_log_ratios",), None),
        (("null_log_ratios",), {"ffn": "quiet"}),
        (("null_log_ratios",), {"ffn": [None] * 24}),
        (("measurement_contract",), "none"),
        (("baseline_measurement_contract_hash",), 0),
    ],
)
def test_malformed_evidence_is_named(path: tuple[str, ...], value: object) -> None:
    evidence = copy.deepcopy(rmt_evidence(BASE, BASE))
    *parents, last = path
    place: Any = evidence
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(FormatError, match=r"rmt\."):
        derive_rmt(evidence, RULES)


@pytest.mark.parametrize(
    "rules", [{"epsilon_default": 1e9}, {"epsilon_default": -1.0}, {"null_quantile": 2.0, "min_null_draws": 0}]
)
def test_a_hostile_policy_is_named(rules: dict[str, float]) -> None:
    with pytest.raises(FormatError, match="resolved_policy"):
        derive_rmt(rmt_evidence(BASE, BASE), {**RULES, **rules})
