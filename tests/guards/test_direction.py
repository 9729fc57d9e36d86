"""The direction guard's judgement: which turned matrices are lost, which tables mixed up, what contradicts itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import compact_json, parse_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.direction import DIRECTION_GUARD, derive_direction, require_covered
from pytest_proofpack.guards.direction_evidence import (
    MatrixDirection,
    RowQuantiles,
    TableDirection,
    TableRow,
    direction_evidence,
    shortened_token,
)

RULES = resolve_policy("balanced").section("direction")
QUERY = MatrixDirection("layers.0.attn.q.weight", "attn", 0.99, 1.0, 0.0, 0.0)
KEY = replace(QUERY, name="layers.0.attn.k.weight")
DOWN = replace(QUERY, name="layers.0.mlp.down.weight", group="ffn")
ROUTER = replace(QUERY, name="layers.0.mlp.router.weight", group="router")
WHOLE = {"cosine": 0.001, "retained": 0.001, "rows_lost": 1.0, "columns_lost": 1.0}
ANSWERS = {"layers.0.attn": 1.0, "layers.0.mlp": 1.0}
TABLE = TableDirection(
    *("embed.weight", 100, 2, 2, 0, 2, 2, 1.0),
    RowQuantiles(0.0, 0.0, 1.4, 1.4),
    (TableRow(7, "Ġone", 1.4, 0.0, 8, "Ġtwo"), TableRow(8, "Ġtwo", 1.4, 0.0, 7, "Ġone")),
)
EMBEDDING = MatrixDirection("embed.weight", "embed", 0.99, 1.0, 0.02, 0.0)


def evidence(
    *matrices: MatrixDirection,
    tables: tuple[TableDirection, ...] = (),
    answers: Mapping[str, float | None] = ANSWERS,
    in_text: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    written = direction_evidence(matrices, tables, [], answers, in_text)
    read: dict[str, Any] = parse_json(compact_json(written).encode(), "evidence")
    return read


def judged(*matrices: MatrixDirection, **more: Any) -> dict[str, Any]:
    return derive_direction(evidence(*matrices, **more), RULES)


def turned(matrix: MatrixDirection, **more: Any) -> MatrixDirection:
    return replace(matrix, **{**WHOLE, **more})


def test_nothing_changed_is_nothing_lost() -> None:
    derived = judged()
    assert (derived["passed"], derived["compared"], derived["cosine_min"]) == (True, 0, None)


def test_rounding_turns_nothing() -> None:
    assert judged(QUERY, KEY, DOWN, answers={"layers.0.attn": 0.8, "layers.0.mlp": 0.8})["passed"] is True


def test_a_matrix_that_turned_alone_is_lost_however_its_sublayer_answers() -> None:
    derived = judged(turned(QUERY), KEY)
    assert (derived["passed"], derived["lost_names"]) == (False, [QUERY.name])


def test_two_that_turned_together_are_explained_if_their_sublayer_answers_as_before() -> None:
    assert judged(turned(QUERY), turned(KEY))["passed"] is True
    assert judged(turned(QUERY), turned(KEY), answers={**ANSWERS, "layers.0.attn": 0.89})["lost"] == 2
    assert judged(turned(QUERY), turned(KEY), answers={**ANSWERS, "layers.0.attn": None})["lost"] == 2


def test_some_heads_in_another_order_turn_a_matrix() -> None:
    assert judged(replace(QUERY, cosine=0.95, rows_lost=0.05))["lost"] == 1
    assert judged(replace(QUERY, cosine=0.99, rows_lost=0.01))["lost"] == 0


def test_a_rotated_stream_turns_the_embedding_and_so_excuses_a_single_matrix() -> None:
    rotated = replace(TABLE, changed=100, lost=99, compared=100, exchanged=0, change=RowQuantiles(1.4, 1.4, 1.4, 1.4))
    shown = tuple(TableRow(row, None, 1.4, 0.0) for row in range(16))
    assert judged(turned(DOWN), turned(EMBEDDING), tables=(replace(rotated, worst=shown),))["passed"] is True


def test_a_matrix_that_became_another_is_lost_unless_a_router_followed() -> None:
    swapped = [turned(DOWN, like="b"), turned(DOWN, name="layers.0.mlp.up.weight", like="a")]
    assert judged(*swapped)["lost"] == 2
    assert judged(*swapped, turned(ROUTER))["passed"] is True


def test_what_stands_in_no_sublayer_is_not_judged() -> None:
    assert judged(turned(QUERY, name="elsewhere.weight"))["passed"] is True


def test_rows_that_became_each_other_are_named() -> None:
    derived = judged(EMBEDDING, tables=(TABLE,))
    assert (derived["passed"], derived["mixed_up"], derived["rows_exchanged"]) == (False, ["embed.weight"], 2)
    (gate,) = DIRECTION_GUARD.gates
    assert gate.words is not None
    assert "rows mixed up in embed.weight: at least 2" in gate.words(derived, RULES)[0]


def test_lost_rows_of_tokens_in_the_text_warn_unless_the_table_was_rotated() -> None:
    shown = tuple(replace(row, like=None, like_token=None) for row in TABLE.worst)
    fresh = replace(TABLE, exchanged=0, worst=shown)
    rotated = replace(fresh, rows=3, worst=(replace(shown[0], row=0), replace(shown[1], row=1)))
    counts = [
        derive_direction(evidence(EMBEDDING, tables=(table,), in_text={table.name: count}), RULES)["rows_lost_in_text"]
        for table, count in ((fresh, 0), (fresh, 2), (rotated, 2))
    ]
    assert counts == [0, 2, 0]
    assert [DIRECTION_GUARD.raised({"rows_lost_in_text": count}) for count in counts] == [[], ["direction"], []]


@pytest.mark.parametrize(
    "in_text", [{"embed.weight": 3}, {"embed.weight": True}, {"other": 0}, {"embed.weight": -1}, []]
)
def test_counts_that_are_none_of_lost_rows(in_text: Any) -> None:
    written = {**evidence(EMBEDDING, tables=(TABLE,)), "lost_in_text": in_text}
    with pytest.raises(FormatError, match="lost_in_text"):
        derive_direction(written, RULES)


def test_reserved_tokens_that_were_trained_are_no_mixed_up_rows() -> None:
    fresh = replace(TABLE, exchanged=0, worst=tuple(replace(row, like=None, like_token=None) for row in TABLE.worst))
    assert judged(EMBEDDING, tables=(fresh,))["passed"] is True
    assert judged(EMBEDDING, tables=(replace(fresh, reversed=2),))["passed"] is False


@pytest.mark.parametrize(
    "forge",
    [
        lambda block: block["matrices"]["name"].append("x"),
        lambda block: block["matrices"]["cosine"].__setitem__(0, 1.5),
        lambda block: block["matrices"]["cosine"].__setitem__(0, None),
        lambda block: block["matrices"]["like"].__setitem__(0, "another"),
        lambda block: block["matrices"]["family"].__setitem__(0, "unheard"),
        lambda block: block["tables"]["embed.weight"].update(exchanged=0),
        lambda block: block["tables"]["embed.weight"].update(changed=1),
        lambda block: block["tables"]["embed.weight"].update(compared=1),
        lambda block: block["tables"]["embed.weight"].update(longest=-1.0),
        lambda block: block["tables"]["embed.weight"]["worst"].pop(),
        lambda block: block["tables"]["embed.weight"]["worst"][0].update(row=100),
        lambda block: block["tables"]["embed.weight"]["worst"][0].update(change=2.0),
        lambda block: block["tables"]["embed.weight"]["worst"][0].update(token="x" * 100),
        lambda block: block["tables"]["embed.weight"]["change"].update(q50=1.5),
        lambda block: block["tables"].update(other=block["tables"]["embed.weight"]),
        lambda block: block["responses"].update({"layers.0.attn": "1"}),
        lambda block: block.update(not_compared="all"),
        lambda block: block.pop("responses"),
    ],
)
def test_evidence_that_contradicts_itself_is_refused(forge: Callable[[dict[str, Any]], object]) -> None:
    block = evidence(EMBEDDING, tables=(TABLE,))
    derive_direction(block, RULES)
    forge(block)
    with pytest.raises(FormatError, match="direction"):
        derive_direction(block, RULES)


class TestCovered:
    def certificate(self) -> dict[str, Any]:
        return {
            "direction": evidence(QUERY),
            "spectral": {"matrices": {"name": [QUERY.name, KEY.name], "state": ["measured", "same"]}},
            "rmt": {"branches": dict.fromkeys(ANSWERS)},
            "structure": {},
        }

    def test_what_the_other_guards_saw_is_there(self) -> None:
        require_covered(self.certificate())

    def test_a_matrix_left_out_is_named(self) -> None:
        certificate = self.certificate()
        certificate["spectral"]["matrices"]["state"][1] = "measured"
        with pytest.raises(FormatError, match=r"layers.0.attn.k.weight' is left out"):
            require_covered(certificate)

    def test_nothing_that_was_compared_may_be_called_not_comparable(self) -> None:
        certificate = self.certificate()
        certificate["direction"]["not_compared"] = [KEY.name]
        certificate["structure"]["changes"] = {"tensors": {"name": [KEY.name], "state": ["not_compared"]}}
        require_covered(certificate)
        certificate["structure"]["changes"]["tensors"]["state"] = ["changed"]
        with pytest.raises(FormatError, match="was compared"):
            require_covered(certificate)

    def test_a_sublayer_left_out_is_seen(self) -> None:
        certificate = copy.deepcopy(self.certificate())
        del certificate["direction"]["responses"]["layers.0.mlp"]
        with pytest.raises(FormatError, match="sublayers"):
            require_covered(certificate)


def test_a_token_is_shown_in_bounds_and_as_valid_text() -> None:
    assert shortened_token("Ġthe") == "Ġthe"
    assert shortened_token("a" * 100) == "a" * 47 + "…"
    assert shortened_token("\ud800x") == "\\ud800x"
