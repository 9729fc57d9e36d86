"""What follows from the changes of a loaded subject; evidence that contradicts itself or others is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.changes import (
    CHANGED,
    NOT_COMPARED,
    NOT_FINITE,
    ModelChanges,
    TensorChange,
    derive_changes,
)
from pytest_proofpack.guards.changes import SAME as EQUAL
from tests.support.mutations import leaves, other, replaced

CHANGES = ModelChanges(
    source="memory",
    tensors=(
        TensorChange("up", "ffn", CHANGED, 100, 3.0, 0, 3.1, 25, 0.4, 32, 15),
        TensorChange("down", "ffn", EQUAL, 100, 4.0, 1),
        TensorChange("query", "attn", NOT_FINITE, 50, 2.0, 0),
        TensorChange("lost", "attn", NOT_COMPARED, 50),
        TensorChange("gain", "norm", CHANGED, 10, 1.0, 0, 1.0, 0, 0.1),
    ),
    added=("lora",),
    removed=("lost",),
    loading={"missing": 1, "unexpected": 1, "mismatched": 0},
)
VIOLATIONS: list[JsonObject] = [
    {"kind": "loading", "count": 1, "names": ["lost"], "message": "missing keys when loading the subject"},
    {"kind": "loading", "count": 1, "names": ["lora"], "message": "unexpected keys when loading the subject"},
]
SPECTRAL: JsonObject = {
    "matrices": {
        "name": ["up[gate]", "up[up]", "down", "query", "lost"],
        "state": ["measured", "measured", "same", "not_finite", "measured"],
        "frobenius_base": [1.0, 2.0, 4.0, 2.0, 7.0],
    },
    "vectors": {"name": ["gain"], "state": ["measured"], "norm_base": [1.0]},
}


def derive(block: object, violations: list[JsonObject] = VIOLATIONS, spectral: JsonObject = SPECTRAL) -> JsonObject:
    return derive_changes(block, {"violations": violations}, spectral)


def changed(change: Callable[[Any], object]) -> JsonObject:
    block = copy.deepcopy(CHANGES.to_json())
    change(block)
    return block


def column(name: str, index: int, value: object) -> JsonObject:
    return changed(lambda block: block["tensors"][name].__setitem__(index, value))


def test_what_follows_is_what_the_definitions_say() -> None:
    derived = derive(CHANGES.to_json())
    summary = derived["summary"]
    assert derived["parameters_changed"] == ["up", "query", "gain"]
    counts = {key: summary[key] for key in ("parameters", "changed", "not_finite", "not_compared", "added", "removed")}
    assert counts == {"parameters": 5, "changed": 3, "not_finite": 1, "not_compared": 1, "added": 1, "removed": 1}
    ffn, attn = summary["families"]["ffn"], summary["families"]["attn"]
    assert ffn["relative_change"] == pytest.approx(0.4 / math.hypot(3.0, 4.0))
    assert (ffn["sparsity_base"], ffn["sparsity"]) == (1 / 200, 26 / 200)
    assert (ffn["distinct_base"], ffn["distinct"], ffn["bits"]) == (32, 15, 4)
    assert (attn["changed"], attn["relative_change"], attn["sparsity"]) == (1, None, None)


@pytest.mark.parametrize(("distinct", "bits"), [(1, 1), (2, 1), (3, 2), (8, 3), (16, 4), (17, None), (32, None)])
def test_few_distinct_values_take_few_bits(distinct: int, bits: int | None) -> None:
    assert derive(column("distinct", 0, distinct))["summary"]["families"]["ffn"]["bits"] == bits


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (None, "expected an object"),
        (changed(lambda block: block.pop("added")), "expected the keys"),
        (changed(lambda block: block.update(source="hearsay")), "source"),
        (changed(lambda block: block["tensors"]["name"].append("x")), "lists of one length"),
        (column("name", 1, "up"), "listed twice"),
        (column("family", 0, "unknown"), "not a name, a family and a state"),
        (column("elements", 0, -1), "elements"),
        (column("difference", 0, None), "contradict"),
        (column("norm", 1, 4.0), "contradict"),
        (column("distinct", 0, None), "contradict"),
        (column("zeros", 0, 101), "zeros at most"),
        (column("distinct", 0, 33), "distinct values"),
        (column("norm", 0, float("nan")), "norms must be finite"),
        (column("difference", 0, 0.01), "no difference"),
        (column("difference", 0, 6.5), "no difference"),
        (column("norm_base", 1, 4.1), "not the spectral guard's"),
        (changed(lambda block: block.update(reshaped=["x"])), "reshaped: no violation"),
        (changed(lambda block: block.update(added=["other"])), "name other keys"),
        (changed(lambda block: block["loading"].update(missing=0)), "count other keys"),
        (changed(lambda block: block["loading"].update(missing=0, mismatched=1)), "name other keys"),
    ],
)
def test_evidence_that_cannot_be_is_refused(block: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        derive(block)


def test_what_loading_reported_of_other_layers_is_on_the_side_that_has_them() -> None:
    derive(changed(lambda block: block.update(added=["lora", "lost"], removed=[])))  # missing, of a model of more
    derive(CHANGES.to_json(), [VIOLATIONS[0], {**VIOLATIONS[1], "names": ["lost"]}])  # unexpected, of one of fewer
    with pytest.raises(FormatError, match="name other keys"):
        derive(CHANGES.to_json(), [VIOLATIONS[0], {**VIOLATIONS[1], "names": ["nowhere"]}])


def test_a_finding_of_the_invariants_cannot_be_dropped() -> None:
    with pytest.raises(FormatError, match="the invariants count other keys"):
        derive(CHANGES.to_json(), VIOLATIONS[1:])


@pytest.mark.parametrize("index", [0, 2])
def test_both_have_to_call_the_same_tensors_equal(index: int) -> None:
    spectral = copy.deepcopy(SPECTRAL)
    states = spectral["matrices"]["state"]
    states[index] = "measured" if states[index] == "same" else "same"
    with pytest.raises(FormatError, match="to the spectral guard"):
        derive(CHANGES.to_json(), spectral=spectral)


def test_every_parameter_of_the_spectral_guard_is_there() -> None:
    spectral = replaced(SPECTRAL, ("vectors", "name"), ["bias"])
    with pytest.raises(FormatError, match="not among the parameters"):
        derive(CHANGES.to_json(), spectral=spectral)


@pytest.mark.parametrize("path", [path for path in leaves(CHANGES.to_json()) if path != ("source",)], ids=str)
def test_no_value_can_be_changed_unnoticed(path: tuple[str | int, ...]) -> None:
    """Only whether the baseline's values came from memory or from files is its maker's word alone."""
    block = CHANGES.to_json()
    value: Any = block
    for key in path:
        value = value[key]
    try:
        derived = derive(replaced(block, path, other(value)))
    except FormatError:
        return
    assert derived != derive(block)
