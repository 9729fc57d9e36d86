"""A vocabulary that only grew is one finding, and what it is worth depends on what the edit is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.invariants import compare_structure, derive_invariants
from pytest_proofpack.guards.structure import StructureMeasure, TensorFacts
from pytest_proofpack.guards.vocabulary_growth import GROWN, has_grown, keeps_vocabulary, rows_added

POLICY = resolve_policy("balanced").section("invariants")
SIZES = {"embedding": 8, "head": 8, "config": 8, "tokenizer": 7}
BASE = StructureMeasure(
    tensors={"embed": TensorFacts((8, 4), "float32"), "up": TensorFacts((6, 4), "float32")},
    norm_modules={},
    tied=(("embed", "head"),),
    config_tied=True,
    vocabulary=SIZES,
    config={"vocab_size": 8, "hidden_size": 4},
)


def grown(**changes: Any) -> StructureMeasure:
    given: dict[str, Any] = {
        "tensors": {**BASE.tensors, "embed": TensorFacts((64, 4), "float32")},
        "vocabulary": {**SIZES, "embedding": 64, "head": 64, "config": 64},
        "config": {**BASE.config, "vocab_size": 64},
    }
    return replace(BASE, **{**given, **changes})


def block(subject: StructureMeasure, label: str | None) -> dict[str, Any]:
    violations = compare_structure(BASE, subject, POLICY, label)
    return {
        "baseline": BASE.summary(),
        "subject": subject.summary(BASE),
        "violations": [violation.to_json() for violation in violations],
    }


@pytest.mark.parametrize(
    ("label", "severity"),
    [("custom", "warning"), ("lora", "warning"), ("my-chat", "warning"), ("quant_rtn", "fatal"), ("gptq", "fatal")],
)
def test_one_finding(label: str, severity: str) -> None:
    own = block(grown(), label)
    (violation,) = own["violations"]
    assert (violation["kind"], violation["severity"], violation["names"]) == (GROWN, severity, ["embed"])
    assert "config 8 -> 64, embedding 8 -> 64, head 8 -> 64" in violation["message"]
    assert derive_invariants(own, POLICY, label)["status"] == {"warning": "warn", "fatal": "fail"}[severity]


def test_a_model_edited_in_memory_is_judged_as_ever() -> None:
    assert [own["kind"] for own in block(grown(), None)["violations"]] == ["config", "shape", "vocabulary"]


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"vocabulary": {**SIZES, "embedding": 64, "head": 4, "config": 64}}, ["config", "shape", "vocabulary"]),
        ({"tensors": {**BASE.tensors, "embed": TensorFacts((64, 5), "float32")}}, ["config", "shape", "vocabulary"]),
        ({"tensors": {**grown().tensors, "up": TensorFacts((5, 4), "float32")}}, ["shape", GROWN]),
        ({"config": {"vocab_size": 64, "hidden_size": 5}}, ["config", GROWN]),
    ],
)
def test_what_else_differs_is_found_besides(changes: dict[str, Any], kinds: list[str]) -> None:
    assert [own["kind"] for own in block(grown(**changes), "custom")["violations"]] == kinds


class TestForgery:
    def test_a_label_that_does_not_allow_it_cannot_have_the_warning(self) -> None:
        with pytest.raises(FormatError, match="another severity than the policy gives"):
            derive_invariants(block(grown(), "custom"), POLICY, "quant_rtn")

    def test_a_model_edited_in_memory_cannot_have_it(self) -> None:
        own = block(grown(), "quant_rtn")
        with pytest.raises(FormatError, match="said to have grown"):
            derive_invariants(own, POLICY, None)

    @pytest.mark.parametrize("sizes", [SIZES, {**SIZES, "embedding": 4}, {"embedding": 64}])
    def test_sizes_have_to_say_so(self, sizes: dict[str, int]) -> None:
        own = block(grown(), "custom")
        own["subject"]["vocabulary"] = sizes
        with pytest.raises(FormatError, match="said to have grown"):
            derive_invariants(own, POLICY, "custom")


@pytest.mark.parametrize(
    "label",
    [
        *("quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd", "noop", "gptq", "awq", "bnb-nf4", "gguf:Q4_K_M"),
        *("compressed-tensors:W4A16", "torchao:int8wo", "int4", "mxfp4", "fp8", "my-q4_0", "quanto", "wanda-2of4"),
        "auto-round",
    ],
)
def test_labels_of_weights_alone(label: str) -> None:
    assert keeps_vocabulary(label)


@pytest.mark.parametrize(
    "label", ["custom", "lora", "dora", "merge", "sft", "quantum-chat", "auto-chat", "dpo2", "ia3", "v2", "c3a"]
)
def test_labels_that_say_nothing_of_it(label: str) -> None:
    assert not keeps_vocabulary(label)


def test_sizes_and_shapes() -> None:
    assert has_grown({"embedding": 8, "config": 8}, {"embedding": 8, "config": 16}) is False
    assert has_grown({"embedding": 8}, {"embedding": 9}) is True
    assert rows_added((8,), (9,))
    assert not any(rows_added(*pair) for pair in [((8, 4), (8, 4)), ((8, 4), (7, 4)), ((8, 4), (9, 4, 1)), ((), ())])
