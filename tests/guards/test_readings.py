"""Where numbers come from: what a certificate may say of it, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import DISTRIBUTION, METRIC, RMT, Case, EvaluatedWindows
from pytest_proofpack.guards.readings import (
    ALWAYS_DENSE,
    ALWAYS_PACKED,
    AS_RUN,
    DEQUANTIZED,
    READINGS_GUARD,
    SEEN_AS_RUN,
    UNPACKED_HERE,
    derive_readings,
    readings_evidence,
    readings_words,
)
from pytest_proofpack.models.checkpoint_formats import CHECKPOINT_FORMATS, Loaded
from pytest_proofpack.plan.quantization import quantization_words

EMPTY = EvaluatedWindows([], [], [], [])
IN_MEMORY = Case(EMPTY, EMPTY)
LOADED = Case(EMPTY, EMPTY, edit={"source": "byoe"})
WORDS = quantization_words("bitsandbytes", "nf4", "bnb-nf4", bits=4).to_json()
PACKED: dict[str, Any] = {
    "losses": AS_RUN,
    "weights": DEQUANTIZED,
    "form": "bitsandbytes",
    "package": {"name": "bitsandbytes", "version": "0.50.2"},
    "quantization": WORDS,
}
DENSE = {**PACKED, "losses": DEQUANTIZED, "form": "fp8", "package": None}


@pytest.mark.parametrize(
    ("case", "block"),
    [
        (IN_MEMORY, readings_evidence()),
        (LOADED, readings_evidence(form="safetensors")),
        (LOADED, readings_evidence(form="adapter", package={"name": "peft", "version": "0.21.2"})),
        (LOADED, readings_evidence(form="gguf", package={"name": "gguf", "version": "0.19.0"})),
        (LOADED, PACKED),
        (LOADED, {**PACKED, "form": "mine"}),
        (LOADED, {**PACKED, "form": "mine", "losses": DEQUANTIZED}),
    ],
)
def test_what_can_be(case: Case, block: dict[str, Any]) -> None:
    assert derive_readings(block, {}, case)["evaluated"] is (block["quantization"] is not None)


@pytest.mark.parametrize(
    ("case", "block"),
    [
        (IN_MEMORY, PACKED),
        (IN_MEMORY, {**readings_evidence(), "package": {"name": "x", "version": "1"}}),
        (LOADED, readings_evidence()),
        (LOADED, {**PACKED, "losses": DEQUANTIZED}),
        (LOADED, {**PACKED, "weights": AS_RUN}),
        (LOADED, {**PACKED, "quantization": None}),
        (LOADED, {**PACKED, "quantization": None, "weights": AS_RUN}),
        (LOADED, {**DENSE, "losses": AS_RUN}),
        (LOADED, {**readings_evidence(form="safetensors"), "losses": DEQUANTIZED}),
    ],
)
def test_what_cannot_be(case: Case, block: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="readings"):
        derive_readings(block, {}, case)


def test_what_was_not_judged_as_it_runs_is_named_and_warned_about() -> None:
    derived = derive_readings(DENSE, {}, LOADED)
    assert derived["not_judged_as_run"] == list(SEEN_AS_RUN)
    assert READINGS_GUARD.raised(derived) == ["weights_only"]
    assert READINGS_GUARD.raised(derive_readings(PACKED, {}, LOADED)) == []


def test_people_read_it_in_a_line() -> None:
    assert readings_words(readings_evidence()) == ""
    assert readings_words(PACKED) == "losses as run by bitsandbytes 0.50.2; weights dequantized"
    assert readings_words(DENSE) == (
        "weights only: losses too are those of the dequantized weights, unpacked by transformers"
    )
    assert readings_words({**DENSE, "form": "awq"}).endswith("dequantized weights, unpacked by pytest-proofpack")


def test_the_gates_that_see_the_model_run_are_those_of_metric_answers_activations_and_distributions() -> None:
    judges = [own for own in criteria() if own.signal in (METRIC, RMT, DISTRIBUTION)]
    others = [own for own in criteria() if own.name in ("primary_metric_tail", "answers", "moe")]
    assert {gate.flag for own in (*judges, *others) for gate in own.gates} == set(SEEN_AS_RUN)


def test_the_forms_are_those_of_the_records() -> None:
    quantized = {name: known for name, known in CHECKPOINT_FORMATS.items() if known.loaded is Loaded.PACKED}
    assert set(quantized) == ALWAYS_PACKED
    assert all(CHECKPOINT_FORMATS[name].loaded is Loaded.DENSE for name in ALWAYS_DENSE & set(CHECKPOINT_FORMATS))
    unpacked = {name for name, known in CHECKPOINT_FORMATS.items() if known.unpacks is not None}
    assert unpacked == UNPACKED_HERE
