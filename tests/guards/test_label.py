"""A label is held against counts; evidence that leaves out a change, or belongs to no claim, is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import Case, EvaluatedWindows
from pytest_proofpack.guards.inventory import Inventory, ListedTensor
from pytest_proofpack.guards.label import LABEL_GUARD, MatrixClaim, derive_label, is_binding, label_evidence

RULES = resolve_policy("balanced").section("label")
NONE = EvaluatedWindows([], [], [], [])
CASE = Case(
    NONE,
    NONE,
    inventory=Inventory(
        (ListedTensor("up", "ffn", 0, 2), ListedTensor("bias", "ffn"), ListedTensor("down", "ffn", 0, 1))
    ),
    edit={"type": "quant_rtn", "source": "byoe", "subject": "acme/model"},
    compared={"name": ["up", "bias", "down"], "state": ["changed", "changed", "same"]},
)
GOOD = (
    MatrixClaim("up[gate]", 1000, 20, 100, 10),
    MatrixClaim("up[up]", 1000, 0, 100, 0),
    MatrixClaim("bias", 100, 0, 3, 0),
)


def derived(
    matrices: tuple[MatrixClaim, ...] | None = GOOD, origin: str | None = "given", **edit: object
) -> JsonObject:
    return derive_label(label_evidence(origin, matrices), RULES, replace(CASE, edit={**CASE.edit, **edit}))


def outcome(block: JsonObject) -> tuple[bool, list[str]]:
    return LABEL_GUARD.flags(block)["label_holds"], LABEL_GUARD.raised(block)


class TestClaims:
    def test_at_the_limits_it_holds(self) -> None:
        block = derived()
        assert (block["evaluated"], block["holds"], block["findings"]) == (True, True, [])
        assert outcome(block) == (True, [])

    @pytest.mark.parametrize(
        ("change", "finding"),
        [
            ({"stray": 310}, "31 % of the values moved by more than a step (in up[gate])"),
            ({"stray": 21}, "2.1 % of the values moved by more than a step (in up[gate])"),
            ({"off_grid": 11}, "11 % of the groups have more than 256 levels (in up[gate])"),
        ],
    )
    def test_above_them_it_does_not(self, change: dict[str, Any], finding: str) -> None:
        block = derived((replace(GOOD[0], **change), *GOOD[1:]))
        assert block["findings"] == [f"labelled quant_rtn, but {finding}"]
        assert outcome(block) == (False, [])
        gate = LABEL_GUARD.gates[0]
        assert gate.words is not None
        assert gate.words(block, RULES)[0] == block["findings"][0]

    def test_what_pruning_and_low_rank_say(self) -> None:
        kept = tuple(replace(own, groups=0, off_grid=0, stray=0) for own in GOOD)
        assert derived(kept, type="magnitude_prune")["holds"]
        (finding,) = derived((replace(kept[0], stray=2), *kept[1:]), type="magnitude_prune")["findings"]
        assert "0.2 % of the changed values are neither kept nor zero" in finding
        ranks = tuple(replace(own, rank=90, full_rank=100) for own in kept)
        assert derived(ranks, type="lowrank_svd")["holds"]
        (finding,) = derived((replace(ranks[0], rank=91), *ranks[1:]), type="lowrank_svd")["findings"]
        assert "91 % of the full rank is left" in finding

    @pytest.mark.parametrize("label", ["custom", "noop", "merged"])
    def test_other_labels_claim_nothing(self, label: str) -> None:
        block = derived(None, type=label)
        assert (block["evaluated"], outcome(block)) == (False, (True, []))

    def test_an_edit_of_our_own_is_known(self) -> None:
        assert outcome(derived(None, None, source=None)) == (True, [])


class TestWhoseWordItIs:
    @pytest.mark.parametrize(
        ("origin", "subject", "binding"),
        [
            ("given", "acme/model", True),
            ("inferred", "acme/tiny-quant_rtn-g32", True),
            ("inferred", "acme/tiny-quant-rtn-g32", True),
            ("inferred", "acme/tiny-rtn", False),
            ("inferred", "quant_rtn/tiny-rtn", False),
        ],
    )
    def test_a_claim_fails_and_a_guess_warns(self, origin: str, subject: str, binding: bool) -> None:
        assert is_binding("quant_rtn", origin, subject) is binding
        block = derived((replace(GOOD[0], stray=900), *GOOD[1:]), origin, subject=subject)
        assert outcome(block) == ((False, []) if binding else (True, ["label"]))


class TestNothingChanged:
    def test_no_value_differs(self) -> None:
        equal = replace(CASE, compared={"name": ["up", "bias"], "state": ["same", "same"]})
        block = derive_label(label_evidence("given", ()), RULES, equal)
        assert block["findings"] == ["labelled quant_rtn, but no value differs from the baseline's"]
        assert not outcome(block)[0]

    def test_nothing_could_be_compared(self) -> None:
        packed = replace(CASE, compared={"name": ["up", "bias"], "state": ["not_compared", "same"]})
        (finding,) = derive_label(label_evidence("given", ()), RULES, packed)["findings"]
        assert finding.endswith("but no changed value could be looked at")


class TestEvidence:
    @pytest.mark.parametrize(
        ("matrices", "message"),
        [
            (GOOD[:2], "'bias' stands there 0 times, not 1"),
            (GOOD[1:], "'up' stands there 1 times, not 2"),
            ((*GOOD, MatrixClaim("down", 5)), "'down' stands there 1 times, not 0"),
            ((*GOOD[:2], replace(GOOD[2], name="up[up]")), "stands there twice"),
            ((*GOOD[:2], replace(GOOD[2], stray=101)), "parts of their wholes"),
            ((*GOOD[:2], replace(GOOD[2], off_grid=4)), "parts of their wholes"),
            ((*GOOD[:2], replace(GOOD[2], rank=1)), "parts of their wholes"),
            ((*GOOD[:2], replace(GOOD[2], values=-1)), "expected counts"),
        ],
    )
    def test_counts_that_cannot_be(self, matrices: tuple[MatrixClaim, ...], message: str) -> None:
        with pytest.raises(FormatError, match=message):
            derived(matrices)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda block: block.update(tensors=None), "expected the columns"),
            (lambda block: block["tensors"].pop("rank"), "expected the columns"),
            (lambda block: block["tensors"]["rank"].append(0), "lists of one length"),
            (lambda block: block["tensors"]["values"].__setitem__(0, True), "expected counts"),
            (lambda block: block["tensors"]["name"].__setitem__(0, ""), "is no name"),
            (lambda block: block.update(origin=None), "belongs to a subject that was loaded"),
            (lambda block: block.update(origin="mine"), "belongs to a subject that was loaded"),
        ],
    )
    def test_what_was_never_measured(self, change: Callable[[JsonObject], object], message: str) -> None:
        block = copy.deepcopy(label_evidence("given", GOOD))
        change(block)
        with pytest.raises(FormatError, match=message):
            derive_label(block, RULES, CASE)

    def test_where_nothing_is_claimed(self) -> None:
        with pytest.raises(FormatError, match="the label claims nothing"):
            derived(GOOD, type="custom")
        with pytest.raises(FormatError, match="belongs to a subject that was loaded"):
            derived(None, "given", source=None)
