"""The places guard: what was put elsewhere fails, unless the function was kept exactly."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.places import PLACES_GUARD
from tests.support.certificates import make_evidence, make_plan

NAME = "block.0.mlp.weight"


@cache
def _honest() -> JsonObject:
    request = next(r for r in make_plan()[1].requests if r.scenario.id == "quant_4bit_clean")
    return build_certificate(make_evidence(request, shift=0.0))


def judged(rearranged: Any, *, divergence: float = 0.0, answer: float = 1.0, family: str = "ffn") -> JsonObject:
    document = copy.deepcopy(_honest())
    windows = document["distribution"]["final"]["kl_mean"]
    windows[:] = [divergence] * len(windows)
    document["direction"]["responses"] = dict.fromkeys(document["direction"]["responses"], answer)
    document["direction"]["matrices"]["family"][0] = family
    document["places"]["rearranged"] = rearranged
    return derive(document)


@pytest.mark.parametrize("how", ["rows", "columns", "transposed", "block.0.attn.weight"])
def test_what_was_put_elsewhere_fails_where_the_function_changed(how: str) -> None:
    derived = judged({NAME: how}, answer=0.998)
    assert derived["outcome"]["failed_gates"] == ["values_in_place"]
    assert derived["outcome"]["signals"] == ["invariants"]
    assert derived["places"]["misplaced_names"] == [NAME]
    assert judged({NAME: how}, divergence=0.0011)["validation"]["values_in_place"] is False


def test_permuted_neurons_keep_the_function_exactly_and_are_explained() -> None:
    derived = judged({NAME: "rows"}, divergence=0.0009, answer=0.9991)
    assert derived["outcome"]["passed"] is True
    assert (derived["places"]["explained"], derived["places"]["misplaced"]) == (1, 0)


def test_rows_of_a_table_are_tokens_and_never_explained() -> None:
    assert judged({NAME: "rows"}, family="embed")["validation"]["values_in_place"] is False
    assert judged({NAME: "rows"}, family="head")["validation"]["values_in_place"] is False
    assert judged({NAME: "columns"}, family="embed")["validation"]["values_in_place"] is True


def test_it_says_which_and_how() -> None:
    block = {"rearranged": {NAME: "rows", "b": NAME}, "misplaced": 2, "misplaced_names": [NAME, "b"], "explained": 0}
    (gate,) = PLACES_GUARD.gates
    assert gate.words is not None
    assert gate.words(block, {})[0] == f"2 misplaced: {NAME} (rows in another order), b (holds {NAME})"


@pytest.mark.parametrize("forged", [{"unknown": "rows"}, {NAME: NAME}, {NAME: 1}, [], None, {NAME: None}])
def test_evidence_that_is_none_is_refused(forged: Any) -> None:
    with pytest.raises(FormatError, match="places"):
        judged(forged)
