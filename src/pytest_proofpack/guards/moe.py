"""The mixture-of-experts guard: has the subject the baseline's experts and routers, and does it still use them alike?

Count, top-k and shapes must be equal. How far the usage of experts moved is recorded: a clean edit moves it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import ActivationFacts, RouterUsage, exact_mapping, mapping, non_negative
from pytest_proofpack.guards.coverage import router_coverage
from pytest_proofpack.guards.guard import INVARIANTS, Block, Case, Gate, Guard, Shared

_IDENTITY = ("experts", "top_k", "shape")
_SIDES = frozenset({"base", "cur"})
_ROUTER_KEYS = frozenset({*_IDENTITY, "usage"})


def moe_evidence(baseline: ActivationFacts, subject: ActivationFacts) -> JsonObject:
    """Return what a certificate records as evidence under ``moe``: per router, both sides; null for a missing one."""
    return {
        "routers": {
            name: {"base": _router(baseline.routers.get(name)), "cur": _router(subject.routers.get(name))}
            for name in sorted({*baseline.routers, *subject.routers})
        }
    }


def derive_moe(evidence: Mapping[str, Any]) -> JsonObject:
    """Judge the evidence of :func:`moe_evidence`; ``identity_ok`` of a dense model is true.

    The usage distance of a router is the total variation between the shares of its experts, 0.5 sum abs(p - q).

    Raises:
        FormatError: the evidence is not what :func:`moe_evidence` writes.
    """
    routers = mapping(evidence.get("routers"), "moe.routers")
    distances: dict[str, float] = {}
    differing: list[str] = []
    experts: set[int] = set()
    for name in routers:
        where = f"moe.routers.{name}"
        row = exact_mapping(routers[name], where, _SIDES)
        ours, theirs = (_checked(row[side], f"{where}.{side}") for side in ("base", "cur"))
        experts.update(int(side["experts"]) for side in (ours, theirs) if side is not None)
        if ours is None or theirs is None or any(ours[key] != theirs[key] for key in _IDENTITY):
            differing.append(name)
        else:
            distances[name] = usage_distance(ours["usage"], theirs["usage"])
    return {
        "evaluated": True,
        "observed": bool(routers),
        "identity_ok": not differing,
        "routers_differing": differing,
        "expert_count": max(experts, default=0),
        "usage_distance": distances,
        "usage_distance_max": max(distances.values(), default=None),
    }


def fewest_uses(evidence: Mapping[str, Any]) -> float:
    """Return how often the least used expert of both models was chosen; infinite for a dense model, 0 if one is absent.

    Raises:
        FormatError: the evidence is not what :func:`moe_evidence` writes.
    """
    routers = mapping(evidence.get("routers"), "moe.routers")
    rows = {name: exact_mapping(row, f"moe.routers.{name}", _SIDES) for name, row in routers.items()}
    sides = [_checked(row[side], f"moe.routers.{name}.{side}") for name, row in rows.items() for side in _SIDES]
    return min((min(side["usage"], default=0.0) if side is not None else 0.0 for side in sides), default=math.inf)


def usage_distance(ours: list[float], theirs: list[float]) -> float:
    """Return the total variation between two distributions given as counts; an unused router has no distribution."""
    totals = sum(ours), sum(theirs)
    if not all(totals):
        return 0.0 if totals[0] == totals[1] else 1.0
    return 0.5 * sum(abs(p / totals[0] - q / totals[1]) for p, q in zip(ours, theirs, strict=True))


def _router(router: RouterUsage | None) -> JsonObject | None:
    if router is None:
        return None
    return {
        "experts": router.experts,
        "top_k": router.top_k,
        "shape": list(router.shape),
        "usage": list(router.usage),
    }


def _checked(side: object, where: str) -> Mapping[str, Any] | None:
    if side is None:
        return None
    side = exact_mapping(side, where, _ROUTER_KEYS)
    experts, usage = side["experts"], side["usage"]
    if not isinstance(experts, int) or isinstance(experts, bool) or not isinstance(usage, list):
        raise FormatError(f"{where}: expected a number of experts and a list of counts")
    if len(usage) != experts:
        raise FormatError(f"{where}: {len(usage)} counts for {experts} experts")
    return {**side, "usage": [non_negative(count, f"{where}.usage") for count in usage]}


def _derived(block: Block, case: Case) -> JsonObject:
    derived, coverage = derive_moe(block), router_coverage(block, case.inventory)
    return derived if coverage is None else {**derived, "coverage": coverage}


MOE_GUARD = Guard(
    name="moe",
    judges="routers and experts",
    evidence=frozenset({"routers"}),
    derive=lambda block, _rules, case: _derived(block, case),
    gates=(
        Gate(
            "moe_identity_ok",
            lambda block: block["identity_ok"],
            lambda block, _rules: (
                "see the moe block" if block["observed"] else "no routers in this model",
                "experts, routers and top-k unchanged",
            ),
            title="experts and routers",
            applies=lambda block: bool(block["observed"]),
        ),
    ),
    shared=Shared(
        sample=lambda block: {"routers of the baseline": {name: row["base"] for name, row in block["routers"].items()}}
    ),
    facts={"moe_observed": lambda block: block["observed"]},
    warnings={"moe": lambda block: not block.get("coverage", {"complete": True})["complete"]},
    signal=INVARIANTS,
)
