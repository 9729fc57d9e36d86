"""The answers guard: which sublayers fell, and where a kept function explains what other guards find."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.answers import ANSWERS_GUARD
from tests.support.certificates import make_evidence, make_plan

Change = Callable[[JsonObject], object]
ATTN, FFN = "block.0.attn", "block.0.mlp"


@cache
def _honest() -> JsonObject:
    request = next(r for r in make_plan()[1].requests if r.scenario.id == "quant_4bit_clean")
    return build_certificate(make_evidence(request, shift=0.0))


def judged(*changes: Change) -> JsonObject:
    """Derive from the evidence of a mild edit whose distributions did not move, changed."""
    document = copy.deepcopy(_honest())
    for change in (_divergence(0.004), *changes):
        change(document)
    return derive(document)


def _divergence(value: float) -> Change:
    def change(document: JsonObject) -> None:
        windows = document["distribution"]["final"]["kl_mean"]
        windows[:] = [value] * len(windows)

    return change


def _answer(name: str, value: float | None) -> Change:
    return lambda document: document["direction"]["responses"].update({name: value})


def _spectral(**columns: Any) -> Change:
    """Set numbers of the matrix that the edit changed, the second in the table."""

    def change(document: JsonObject) -> None:
        for name, value in columns.items():
            document["spectral"]["matrices"][name][1] = value

    return change


def _retained(value: float) -> Change:
    return lambda document: document["direction"]["matrices"]["retained"].__setitem__(0, value)


def _edge(**row: Any) -> Change:
    return lambda document: document["rmt"]["branches"][FFN].update(row)


def _usage(*counts: int) -> Change:
    router = {"experts": len(counts), "top_k": 1, "shape": [len(counts), 8], "usage": list(counts)}
    return lambda document: document["moe"]["routers"].update(r={"base": router, "cur": router})


SCALED = _spectral(sigma=64.0, frobenius=190.0, row_max=16.0, column_max=16.0)
"""Far beyond every limit, as a factor that another matrix undoes."""


class TestGate:
    @pytest.mark.parametrize(("value", "passes"), [(0.86, True), (0.84, False), (-1.0, False), (None, False)])
    def test_every_sublayer_has_to_answer_as_before(self, value: float | None, passes: bool) -> None:
        derived = judged(_answer(ATTN, value))
        assert derived["validation"]["answers_kept"] is passes
        assert derived["answers"]["fallen_names"] == ([] if passes else [ATTN])
        assert ("answers" in derived["outcome"]["signals"]) is not passes

    def test_one_sublayer_may_have_had_something_left_out(self) -> None:
        fallen = judged(_answer(FFN, 0.5), _retained(1.0))
        assert fallen["validation"]["answers_kept"] is True
        assert fallen["answers"]["excused"] == [FFN]
        assert judged(_answer(FFN, 0.5), _retained(0.8))["validation"]["answers_kept"] is False

    def test_two_may_not(self) -> None:
        derived = judged(_answer(FFN, 0.5), _answer(ATTN, 0.5), _retained(1.0))
        assert (derived["validation"]["answers_kept"], derived["answers"]["fallen"]) == (False, 2)

    def test_it_says_which(self) -> None:
        derived = judged(_answer(ATTN, 0.1))
        (gate,) = ANSWERS_GUARD.gates
        assert gate.words is not None
        words = gate.words(derived["answers"], _honest()["resolved_policy"]["answers"])
        assert words == (
            "smallest answer 0.1; sublayers below the limit, or without an answer: 1 (block.0.attn)",
            "every sublayer's answer to the same tokens at least 0.85 of 1",
        )


class TestExplained:
    def test_what_compares_badly_does_not_count_where_the_function_was_kept(self) -> None:
        derived = judged(SCALED)
        assert derived["outcome"] == {"passed": True, "failed_gates": [], "warnings": [], "signals": []}
        assert derived["answers"]["function_kept"] is True
        spectral = derived["spectral"]
        assert (spectral["explained"]["count"], spectral["fatal_violations"]) == (3, 0)
        assert spectral["explained"]["names"] == ["block.0.mlp.weight"]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (_divergence(0.006), "divergence"),
            (_answer(ATTN, 0.97), "answers"),
            (_answer(ATTN, None), "answers"),
            (lambda document: document["variance"]["branches"][FFN].update(cur=0.7), "variance"),
            (lambda document: document["variance"]["branches"][FFN].update(cur=0.0), "variance"),
            (_usage(900, 7), "experts"),
        ],
    )
    def test_it_counts_where_the_function_changed(self, change: Change, reason: str) -> None:
        derived = judged(SCALED, change)
        assert derived["answers"]["function_changed"] == [reason]
        assert "spectral_stable" in derived["outcome"]["failed_gates"]
        assert derived["spectral"]["explained"] == {"count": 0, "names": []}

    def test_experts_that_the_text_used_are_seen(self) -> None:
        assert judged(SCALED, _usage(900, 8))["outcome"]["passed"] is True

    def test_what_vanished_is_never_explained(self) -> None:
        assert judged(_spectral(sigma=0.0, frobenius=0.0))["validation"]["spectral_stable"] is False
        assert judged(_spectral(sigma=4e-5, frobenius=1.2e-4))["validation"]["spectral_stable"] is False
        assert judged(_spectral(sigma=4e-3, frobenius=1.2e-2))["validation"]["spectral_stable"] is True

    @pytest.mark.parametrize("state", ["missing", "not_finite"])
    def test_what_is_not_there_is_never_explained(self, state: str) -> None:
        nothing = dict.fromkeys(("sigma", "frobenius", "row_min", "row_max", "column_min", "column_max"))
        assert judged(_spectral(state=state, **nothing))["validation"]["spectral_stable"] is False

    def test_a_larger_edge_is_explained_and_named(self) -> None:
        derived = judged(_edge(cur=99.0))
        assert (derived["validation"]["rmt_stable"], derived["rmt"]["explained"]) == (True, ["ffn"])
        assert judged(_edge(cur=99.0), _answer(FFN, 0.97))["validation"]["rmt_stable"] is False

    def test_a_sublayer_that_is_missing_is_not(self) -> None:
        assert judged(_edge(cur=None, state="missing"))["validation"]["rmt_stable"] is False

    def test_hostile_evidence_is_refused(self) -> None:
        with pytest.raises(FormatError):
            judged(lambda document: document["moe"]["routers"].update(r={"base": 1}))


class TestRowsThatGrew:
    """Rows of embedding and head are tokens, which the text need not use: the function explains nothing about them."""

    def judged(self, row_max: float = 12.0, row_min: float = 1.0, **table: Any) -> bool:
        """Tell whether the spectral gate holds for an embedding, one row of which changed its length."""
        quantiles = {"q50": 0.0, "q90": 0.0, "q99": 11.0, "max": 11.0}
        row = {"row": 7, "token": "a", "change": 11.0, "cosine": 0.1, "like": None, "like_token": None}
        counts = {"rows": 64, "changed": 1, "lost": 1, "reversed": 0, "compared": 1, "exchanged": 0, "longest": 1.0}
        found = {**counts, "change": quantiles, "worst": [row], **table}
        names = {"name": "embed.weight", "family": "embed", "state": "measured"}
        numbers = {"sigma": 4.0, "frobenius": 12.0, "sigma_base": 4.0, "frobenius_base": 12.0}
        ratios = {"row_min": row_min, "row_max": row_max, "column_min": 1.0, "column_max": 1.0}
        direction = {"cosine": 0.9, "retained": 0.9, "rows_lost": 0.1, "columns_lost": 0.0, "like": None}

        def change(document: JsonObject) -> None:
            for name, value in {**names, **numbers, **ratios}.items():
                document["spectral"]["matrices"][name].append(value)
            for name, value in {**names, **direction}.items():
                document["direction"]["matrices"].get(name, []).append(value)
            document["direction"]["tables"]["embed.weight"] = found
            for side in ("baseline", "subject"):
                document["invariants"][side]["tensors"] += 1
            tensors = document["invariants"]["tensors"]
            for name, value in {"name": "embed.weight", "family": "embed", "block": None, "matrices": 1}.items():
                tensors[name].append(value)

        return bool(judged(change)["validation"]["spectral_stable"])

    def test_within_the_table_s_own_range_they_started_from_other_tokens(self) -> None:
        assert self.judged() is True

    def test_beyond_it_they_exploded(self) -> None:
        assert self.judged(longest=1.01) is False
        assert self.judged(longest=None) is False

    def test_rows_that_vanished_are_never_explained(self) -> None:
        assert self.judged(row_max=1.0, row_min=0.05) is False

    def test_a_table_most_of_which_changed_is_another_table(self) -> None:
        quantiles = {"q50": 1.0, "q90": 1.0, "q99": 11.0, "max": 11.0}
        row = {"token": None, "change": 1.0, "cosine": 0.9, "like": None, "like_token": None}
        many: dict[str, Any] = {
            "changed": 33,
            "compared": 33,
            "change": quantiles,
            "worst": [{**row, "row": n} for n in range(16)],
        }
        assert self.judged(**many) is False
