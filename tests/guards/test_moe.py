"""The mixture-of-experts guard: identity of experts and routers gates, how they are used is recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_proofpack.common.strict_json import compact_json, parse_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import ActivationFacts, RouterUsage, activation_contract
from pytest_proofpack.guards.moe import derive_moe, moe_evidence

ROUTER = RouterUsage(experts=4, top_k=2, shape=(4, 32), usage=(10, 20, 30, 40))


def facts(**routers: RouterUsage) -> ActivationFacts:
    return ActivationFacts(activation_contract(), "0" * 64, {}, routers)


def judged(baseline: ActivationFacts, subject: ActivationFacts) -> dict[str, Any]:
    return derive_moe(parse_json(compact_json(moe_evidence(baseline, subject)).encode(), "evidence"))


def test_a_dense_model_has_nothing_to_observe() -> None:
    derived = judged(facts(), facts())
    assert (derived["observed"], derived["identity_ok"], derived["expert_count"]) == (False, True, 0)


def test_the_same_routers_are_identical() -> None:
    derived = judged(facts(a=ROUTER, b=ROUTER), facts(a=ROUTER, b=ROUTER))
    assert (derived["observed"], derived["identity_ok"], derived["expert_count"]) == (True, True, 4)
    assert derived["usage_distance"] == {"a": 0.0, "b": 0.0}


def test_usage_distance_is_the_share_of_tokens_that_moved() -> None:
    moved = replace(ROUTER, usage=(35, 20, 30, 15))
    derived = judged(facts(a=ROUTER, b=ROUTER), facts(a=moved, b=ROUTER))
    assert derived["usage_distance"] == {"a": pytest.approx(0.25), "b": 0.0}
    assert derived["usage_distance_max"] == pytest.approx(0.25)
    assert derived["identity_ok"] is True


@pytest.mark.parametrize(
    "changed",
    [
        replace(ROUTER, top_k=1),
        replace(ROUTER, shape=(4, 16)),
        replace(ROUTER, experts=3, shape=(3, 32), usage=(30, 30, 40)),
    ],
)
def test_another_router_is_named(changed: RouterUsage) -> None:
    derived = judged(facts(a=ROUTER, b=ROUTER), facts(a=ROUTER, b=changed))
    assert derived["identity_ok"] is False
    assert derived["routers_differing"] == ["b"]


def test_a_lost_router_and_a_new_one_are_named() -> None:
    derived = judged(facts(a=ROUTER, b=ROUTER), facts(a=ROUTER, c=ROUTER))
    assert derived["routers_differing"] == ["b", "c"]
    assert derived["identity_ok"] is False


def test_a_router_that_chose_nothing_is_far_from_one_that_did() -> None:
    idle = replace(ROUTER, usage=(0, 0, 0, 0))
    assert judged(facts(a=ROUTER), facts(a=idle))["usage_distance_max"] == 1.0


@pytest.mark.parametrize(
    "side",
    [
        "router",
        {"experts": True, "top_k": 2, "shape": [], "usage": [1]},
        {"experts": 2, "top_k": 2, "shape": [2, 4], "usage": [1]},
        {"experts": 2, "top_k": 2, "shape": [2, 4], "usage": [1, -1]},
        {"experts": 2, "top_k": 2, "shape": [2, 4], "usage": {"0": 1}},
        {"experts": 2, "usage": [1, 1]},
        {"experts": 2, "top_k": 2, "shape": [2, 4], "usage": [1, 1], "bonus": 1},
    ],
)
def test_malformed_evidence_is_named(side: object) -> None:
    with pytest.raises(FormatError, match=r"moe\.routers\.a"):
        derive_moe({"routers": {"a": {"base": side, "cur": side}}})
    with pytest.raises(FormatError, match="moe"):
        derive_moe({"routers": [side]})


@pytest.mark.parametrize("row", [{}, {"base": None}, {"base": None, "cur": None, "bonus": 1}])
def test_a_router_has_two_sides_and_nothing_else(row: dict[str, object]) -> None:
    with pytest.raises(FormatError, match=r"moe\.routers\.a: expected the keys base, cur"):
        derive_moe({"routers": {"a": row}})
