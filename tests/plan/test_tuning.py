"""What of a suite is to be tuned, and the document that comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.climbing import Reading, climb
from pytest_proofpack.plan.records import EditSpec, ModelSpec, TextSpec
from pytest_proofpack.plan.scenarios import read_scenarios
from pytest_proofpack.plan.suites import (
    DEFAULT_RUNS,
    Suite,
    WindowChoice,
    packaged_tuned,
    plan_certificates,
    suites_directory,
)
from pytest_proofpack.plan.tuning import (
    beyond_words,
    chosen_words,
    entry_of,
    judged_runs,
    tuned_document,
    tuning_requests,
    with_tuned,
)

EDIT_TYPES = ["quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd"]


def suite(*models: str, tuned: JsonObject | None = None, runs: Mapping[str, int] = DEFAULT_RUNS) -> Suite:
    return Suite(
        "own",
        tuple(ModelSpec(model) for model in models),
        TextSpec("synthetic"),
        WindowChoice(),
        runs,
        read_scenarios(suites_directory() / "scenarios.json"),
        packaged_tuned() if tuned is None else tuned,
    )


def result(model: str, edit: str, entry: JsonObject) -> JsonObject:
    measured = {"model_digest": "0" * 64, "windows": {"seed": 42}}
    return {
        "model": model,
        "edit": edit,
        "entry": entry,
        "chosen": 0,
        "beyond": None,
        "tried": [],
        "measured": measured,
    }


class TestRequests:
    def test_every_clean_edit_of_every_model_is_one(self) -> None:
        found = tuning_requests(suite("acme/a", "proofpack/tiny"), untuned_only=False)
        assert [request.id for request in found] == [
            f"{model}-{edit}" for model in ("acme/a", "proofpack/tiny") for edit in EDIT_TYPES
        ]
        assert {request.run for request in found} == {0}
        assert found[0].edit == EditSpec("quant_rtn", "ffn", {})
        assert found[0].folder == "acme__a/tuning/quant_rtn"

    def test_what_a_model_has_of_its_own_needs_no_tuning(self) -> None:
        found = tuning_requests(suite("acme/a", "proofpack/tiny"), untuned_only=True)
        assert {request.model.id for request in found} == {"acme/a"}
        assert len(found) == 4  # defaults are nobody's own

    def test_what_is_not_run_is_not_tuned(self) -> None:
        runs = {**DEFAULT_RUNS, "clean": 0}
        assert tuning_requests(suite("acme/a", runs=runs), untuned_only=False) == ()
        assert judged_runs(suite("acme/a", runs=runs)) == 0
        assert judged_runs(suite("acme/a")) == DEFAULT_RUNS["clean"]

    def test_a_plan_can_be_made_before_the_parameters_are_known(self) -> None:
        tuned: JsonObject = {"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}
        own = suite("acme/a", tuned=tuned)
        with pytest.raises(ConfigurationError, match="no tuned parameters"):
            plan_certificates(own)
        plan = plan_certificates(own, [("acme/a", edit) for edit in EDIT_TYPES])
        clean = [request for request in plan.requests if request.scenario.category == "clean"]
        assert len(clean) == 4 * DEFAULT_RUNS["clean"]
        assert not plan.skipped


def reading(strain: float, failed: tuple[str, ...] = ()) -> Reading:
    return Reading(failed, {"primary_metric": strain}, 1.01, (1.0, 1.02), 0.01)


class TestEntries:
    def test_the_chosen_rung_is_the_entry(self) -> None:
        request = tuning_requests(suite("acme/a"), untuned_only=False)[3]
        found = climb(1, 3, lambda _, rung: reading(0.1 if rung < 2 else 0.9))
        tried = [EditSpec("lowrank_svd", "ffn@layer=3", {"rank": 30 - step.rung}) for step in found.steps]
        assert entry_of(request, tried, found) == {
            "status": "selected", "edit_dir_name": "svd_rank32_l31_clean", "scope": "ffn@layer=3", "rank": 29,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("read", "why"),
        [(reading(0.9), "(primary_metric)"), (reading(0.0, ("rmt_stable",)), "(rmt_stable)")],
    )
    def test_where_nothing_holds_the_edit_is_skipped_and_the_file_says_why(self, read: Reading, why: str) -> None:
        request = tuning_requests(suite("acme/a"), untuned_only=False)[0]
        found = climb(1, 3, lambda _place, _rung: read)
        entry = entry_of(request, [EditSpec("quant_rtn", "ffn", {})] * 2, found)
        assert entry["status"] == "skipped"
        assert why in entry["reason"]


class TestDocument:
    def test_it_is_a_tuned_parameters_file_with_the_evidence_in_it(self) -> None:
        entry = {"status": "selected", "scope": "ffn", "bits": 4, "group_size": 64}
        document = tuned_document(suite("acme/a"), [result("acme/a", "quant_rtn", entry)], {"suite": "own"})
        assert schema_findings("tuned_edit_params", json.loads(json.dumps(document))) == []
        assert document["models"] == {"acme/a": {"quant_rtn": entry}}
        tuning = document["_meta"]["tuning"]
        assert (tuning["suite"], tuning["margin"]) == ("own", 0.5)
        assert tuning["models"]["acme/a"]["windows"] == {"seed": 42}
        assert tuning["models"]["acme/a"]["edits"]["quant_rtn"] == {"chosen": 0, "beyond": None, "tried": []}

    def test_it_completes_another_one_and_changes_nothing_else_there(self) -> None:
        before = packaged_tuned()
        entry = {"status": "selected", "scope": "ffn", "bits": 4, "group_size": 64}
        results = [result("acme/a", "quant_rtn", entry), result("proofpack/tiny", "quant_rtn", entry)]
        tuned = tuned_document(suite("acme/a", "proofpack/tiny"), results, {})
        after = with_tuned(before, tuned, [("acme/a", "quant_rtn"), ("acme/a", "fp8_quant")])
        assert after["models"] == {**before["models"], "acme/a": {"quant_rtn": entry}}
        assert after["defaults"] == before["defaults"]
        assert after["_meta"]["tuning"] == tuned["_meta"]["tuning"]
        assert "tuning" not in before["_meta"]


def step(rank: int, **changes: object) -> JsonObject:
    return {
        "scope": "ffn@layer=3",
        "parameters": {"rank": rank},
        "holds": True,
        "failed_gates": [],
        "ratio": 1.02,
        "interval": [1.016, 1.024],
        "kl_mean": 0.01,
        "strains": {"primary_metric": 0.24, "rmt": 0.1},
        **changes,
    }


class TestWords:
    def test_they_say_what_was_chosen_and_why_nothing_stronger(self) -> None:
        near = step(80, holds=False, strains={"primary_metric": 0.52, "rmt": None})
        found = {"tried": [near, step(96)], "chosen": 1, "beyond": 0}
        assert chosen_words(found) == "rank 96, ffn@layer=3: ratio 1.02 [1.016, 1.024]"
        assert beyond_words(found) == (
            "next stronger: rank 80, ffn@layer=3: ratio 1.02 [1.016, 1.024], too near the limit of primary_metric, rmt"
        )

    def test_what_fails_a_gate_says_which(self) -> None:
        bad = step(8, holds=False, failed_gates=["rmt_stable"], ratio=None, interval=None)
        found = {"tried": [bad, step(96)], "chosen": 1, "beyond": 0}
        assert beyond_words(found).endswith("rank 8, ffn@layer=3: ratio not defined; not held: rmt_stable")

    def test_the_top_of_a_ladder_and_its_foot(self) -> None:
        assert beyond_words({"tried": [step(1)], "chosen": 0, "beyond": None}) == "the strongest on its ladder"
        nothing = {"tried": [step(1)], "chosen": None, "beyond": 0, "entry": {"reason": "too fragile"}}
        assert chosen_words(nothing) == "skipped: too fragile"
