"""No gate says that all is well where a part of the model was left out; what is there and judged can be certified."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.report.gates import gate_rows
from tests.support.certificates import make_evidence, make_plan

ATTN, MLP = "block.0.attn.weight", "block.0.mlp.weight"


@cache
def _honest() -> JsonObject:
    request = next(request for request in make_plan()[1].requests if request.scenario.id == "quant_4bit_clean")
    return build_certificate(make_evidence(request))


def judged(change: Callable[[JsonObject], object]) -> JsonObject:
    document = copy.deepcopy(_honest())
    change(document)
    return derive(document)


def without(table: JsonObject, name: str) -> None:
    index = table["name"].index(name)
    for column in table.values():
        del column[index]


def emptied(table: JsonObject) -> None:
    for column in table.values():
        column.clear()


def failed(change: Callable[[JsonObject], object]) -> list[str]:
    gates: list[str] = judged(change)["outcome"]["failed_gates"]
    return gates


def listed(document: JsonObject, **entry: object) -> None:
    """Add a tensor to the structure's own list."""
    for column, value in {"family": "ffn", "block": 0, "matrices": 1, **entry}.items():
        document["invariants"]["tensors"][column].append(value)
    for side in ("baseline", "subject"):
        document["invariants"][side]["tensors"] += 1


class TestWeights:
    def test_all_of_it_judged(self) -> None:
        assert _honest()["spectral"]["coverage"] == {"listed": 2, "judged": 2, "left_out": [], "complete": True}
        assert _honest()["outcome"]["passed"]

    def test_without_a_single_matrix_nothing_is_stable(self) -> None:
        assert failed(lambda document: emptied(document["spectral"]["matrices"])) == ["spectral_stable"]

    def test_nor_where_the_structure_lists_none_either(self) -> None:
        def change(document: JsonObject) -> None:
            emptied(document["spectral"]["matrices"])
            emptied(document["invariants"]["tensors"])

        assert failed(change) == ["spectral_stable"]

    @pytest.mark.parametrize("name", [ATTN, MLP])
    def test_a_table_that_leaves_out_a_matrix(self, name: str) -> None:
        derived = judged(lambda document: without(document["spectral"]["matrices"], name))
        assert derived["outcome"]["failed_gates"] == ["spectral_stable"]
        assert derived["spectral"]["coverage"] == {"listed": 2, "judged": 1, "left_out": [name], "complete": False}

    def test_a_part_of_a_parameter_that_is_left_out(self) -> None:
        derived = judged(lambda document: document["invariants"]["tensors"]["matrices"].__setitem__(1, 2))
        assert derived["spectral"]["coverage"]["left_out"] == [MLP]
        assert derived["outcome"]["failed_gates"] == ["spectral_stable"]

    def test_a_vector_that_is_left_out(self) -> None:
        change = lambda document: listed(document, name="norm.weight", family="norm", block=None, matrices=0)  # noqa: E731
        assert failed(change) == ["spectral_stable"]

    def test_a_model_of_one_matrix_can_be_certified(self) -> None:
        def change(document: JsonObject) -> None:
            without(document["spectral"]["matrices"], ATTN)
            without(document["invariants"]["tensors"], ATTN)
            without(document["invariants"]["sublayers"], "block.0.attn")
            for guard in ("rmt", "variance"):
                del document[guard]["branches"]["block.0.attn"]
            del document["direction"]["responses"]["block.0.attn"]

        assert judged(change)["outcome"]["passed"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: without(d["invariants"]["tensors"], MLP), "is not among invariants.tensors"),
            (lambda d: d["invariants"]["tensors"]["family"].__setitem__(1, "other"), "of another family"),
            (lambda d: d["spectral"]["matrices"]["name"].__setitem__(1, "x"), "is not among invariants.tensors"),
            (lambda d: d["structure"].update(parameters_changed=[ATTN]), "called the same, but the edit changed it"),
            (lambda d: d["invariants"]["tensors"].pop("block"), "expected the columns"),
            (lambda d: d["invariants"]["tensors"]["block"].append(0), "lists of one length"),
            (lambda d: d["invariants"]["tensors"]["name"].__setitem__(0, MLP), "listed twice"),
            (lambda d: listed(d, name=""), "is no name"),
            (lambda d: listed(d, name="x", family="head"), "block that of a matrix in a block"),
            (lambda d: listed(d, name="x", matrices=-1), "matrices must be a count"),
            (lambda d: d["invariants"]["baseline"].update(tensors=1), "2 are listed, the baseline has 1"),
            (lambda d: d["invariants"].pop("sublayers"), "expected the columns"),
        ],
    )
    def test_a_list_that_cannot_be(self, change: Callable[[JsonObject], object], message: str) -> None:
        with pytest.raises(FormatError, match=message):
            judged(change)


class TestActivations:
    @pytest.mark.parametrize("guard", ["rmt", "variance"])
    @pytest.mark.parametrize("name", ["block.0.attn", "block.0.mlp"])
    def test_a_sublayer_that_is_left_out(self, guard: str, name: str) -> None:
        def change(document: JsonObject) -> None:
            del document[guard]["branches"][name]
            if guard == "rmt":
                del document["direction"]["responses"][name]  # of the same sublayers

        derived = judged(change)
        assert derived["outcome"]["failed_gates"] == [f"{guard}_stable"]
        assert derived[guard]["coverage"]["left_out"][0] == name
        assert derived[guard]["status"] in ("unstable", "fail")

    @pytest.mark.parametrize(
        ("entry", "passes"),
        [
            ({}, True),  # beside another one whose output is watched
            ({"block": 1}, False),
            ({"block": 1, "family": "attn"}, False),
            ({"block": 1, "family": "other"}, False),
            ({"block": 1, "family": "router"}, False),
            ({"block": None, "family": "other"}, True),
            ({"block": None, "family": "head"}, True),
        ],
    )
    def test_a_block_in_which_nothing_is_watched(self, entry: JsonObject, passes: bool) -> None:
        """One sublayer of many blocks says nothing of the others, even where the layout knows no more."""

        def change(document: JsonObject) -> None:
            listed(document, name="more.weight", **entry)
            for column, values in document["spectral"]["matrices"].items():
                values.append({"name": "more.weight", "family": entry.get("family", "ffn")}.get(column, values[0]))

        assert failed(change) == ([] if passes else ["rmt_stable", "variance_stable"])

    def test_a_sublayer_that_the_structure_does_not_know(self) -> None:
        with pytest.raises(FormatError, match=r"'block\.0\.mlp' is not among invariants\.sublayers"):
            judged(lambda document: document["invariants"]["sublayers"]["block"].__setitem__(1, 3))

    def test_a_router_that_nobody_saw_at_work_is_a_warning(self) -> None:
        def change(document: JsonObject) -> None:
            listed(document, name="block.0.gate.weight", family="router")
            for column, values in document["spectral"]["matrices"].items():
                values.append({"name": "block.0.gate.weight", "family": "router"}.get(column, values[0]))

        derived = judged(change)
        assert derived["outcome"]["warnings"] == ["moe"]
        assert derived["moe"]["coverage"]["left_out"] == ["block.0.gate"]


class TestForAReader:
    def test_the_gate_says_what_was_left_out(self) -> None:
        document = copy.deepcopy(_honest())
        without(document["spectral"]["matrices"], MLP)
        document["spectral"] |= derive(document)["spectral"]
        row = next(row for row in gate_rows(document) if row.flag == "spectral_stable")
        assert row.measured.endswith(f"judged 1 of 2 ({MLP})")
        assert row.demanded.endswith("every parameter judged")

    def test_a_forger_cannot_call_it_complete(self) -> None:
        document = copy.deepcopy(_honest())
        without(document["spectral"]["matrices"], MLP)
        findings = check_certificate(finish_certificate(document))
        assert "spectral.coverage.complete: recorded True, recomputed False" in findings
        assert "spectral.stable: recorded True, recomputed False" in findings
