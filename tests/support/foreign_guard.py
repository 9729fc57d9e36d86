"""A guard as an extension would write it: no weight of the edited model may be larger than twice the baseline's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import Block, Case, Gate, Guard, MeasureContext, Rules, Signal
from pytest_proofpack.guards.registry import GUARDS


def measure(context: MeasureContext) -> JsonObject:
    """Return the largest absolute weight; None where one is not finite, which JSON has no number for."""
    largest = [float(weight.abs().max()) for weight in context.model.parameters()]
    return {"largest": max(largest) if all(map(math.isfinite, largest)) else None}


def derive(evidence: Block, rules: Rules, case: Case) -> JsonObject:
    """Compare the two largest weights."""
    before, after = evidence["baseline"]["largest"], evidence["subject"]["largest"]
    if before <= 0:
        raise FormatError(f"baseline.largest: expected a positive number, found {before!r}")
    ratio = math.inf if after is None else after / before
    limit = rules["ratio_max"]
    return {
        "ratio": ratio if math.isfinite(ratio) else None,
        "windows": len(case.final.ids),
        "passed": ratio <= limit,
        "warned": ratio > limit / 2,
    }


LARGEST_WEIGHT = Guard(
    name="largest_weight",
    judges="the largest weight",
    derive=derive,
    measure=measure,
    thresholds={"ratio_max": 2.0},
    tightens={"ratio_max": "max"},
    gates=(
        Gate(
            "largest_weight_ok",
            lambda block: block["passed"],
            lambda block, rules: (f"ratio {block['ratio']}", f"at most {rules['ratio_max']}"),
        ),
    ),
    warnings={"largest_weight_near": lambda block: block["warned"]},
    signal=Signal("largest_weight", "L", "largest weight"),
)

MILD: JsonObject = {"baseline": {"largest": 2.0}, "subject": {"largest": 1.0}}
NEAR: JsonObject = {"baseline": {"largest": 2.0}, "subject": {"largest": 3.0}}
TOO_LARGE: JsonObject = {"baseline": {"largest": 2.0}, "subject": {"largest": 5.0}}


@contextmanager
def registered(guard: Guard = LARGEST_WEIGHT) -> Iterator[Guard]:
    """Register a guard for a while; one that is registered already stays."""
    if GUARDS.added.get(guard.name) is guard:
        yield guard
        return
    GUARDS.register(guard)
    try:
        yield guard
    finally:
        GUARDS.unregister(guard.name)
