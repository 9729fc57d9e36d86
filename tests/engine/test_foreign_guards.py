"""What is measured for the guards of extensions: each model by itself, and only what can stand in a certificate."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_proofpack.engine.foreign_guards import foreign_evidence, measure_foreign
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.guard import MeasureContext
from tests.support.foreign_guard import LARGEST_WEIGHT, registered

ANY: Any = object()


def model(largest: float) -> Any:
    layer = torch.nn.Linear(2, 2, bias=False)
    layer.weight.data.fill_(largest)
    return layer


def test_without_extensions_nothing_is_measured() -> None:
    assert measure_foreign(model(1.0), ANY, ANY) == {}
    assert foreign_evidence({}, model(1.0), ANY, ANY, ANY) == {}


def test_both_models_are_measured_by_themselves() -> None:
    with registered():
        before = measure_foreign(model(2.0), ANY, ANY)
        evidence = foreign_evidence(before, model(3.0), ANY, ANY, ANY)
    assert evidence == {"largest_weight": {"baseline": {"largest": 2.0}, "subject": {"largest": 3.0}}}


def test_the_guard_is_told_what_it_looks_at() -> None:
    seen: list[MeasureContext] = []

    def measure(context: MeasureContext) -> dict[str, Any]:
        seen.append(context)
        return {"tuple": (1, 2)}

    layout, windows, request = Any, object(), object()
    with registered(replace(LARGEST_WEIGHT, measure=measure)):
        before = measure_foreign(model(1.0), ANY, ANY)
        foreign_evidence(before, model(1.0), layout, windows, request)  # type: ignore[arg-type]
    assert [context.is_baseline for context in seen] == [True, False]
    assert (seen[1].windows, seen[1].request) == (windows, request)
    assert seen[1].policy == {"ratio_max": 2.0}
    assert before == {"largest_weight": {"tuple": [1, 2]}}


@pytest.mark.parametrize("bad", [[1], {"x": math.nan}, {"x": torch.zeros(1)}, None])
def test_what_is_no_json_object_is_refused(bad: object) -> None:
    guard = replace(LARGEST_WEIGHT, measure=lambda _: bad)  # type: ignore[arg-type, return-value]
    with (
        registered(guard),
        pytest.raises(EvaluationError, match=r"guard 'largest_weight': what .* Return a dict"),
    ):
        measure_foreign(model(1.0), ANY, ANY)
