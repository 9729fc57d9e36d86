"""The results of a tuning run in its directory: what is stored, and what of it a later session uses again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.records import TextFacts, WindowPlan
from pytest_proofpack.runs.conditions import Conditions
from pytest_proofpack.runs.paths import MARKER
from pytest_proofpack.runs.run import Run, resolve_run, with_tuned_edits
from pytest_proofpack.runs.tunings import TuningDirectory, scan_tunings
from tests.support.default_settings import DEFAULTS

DIGEST = "d" * 64
ENTRIES: dict[str, JsonObject] = {
    "quant_rtn": {"status": "selected", "scope": "ffn", "bits": 4, "group_size": 64},
    "fp8_quant": {"status": "selected", "scope": "ffn", "format": "e5m2"},
    "magnitude_prune": {"status": "skipped", "reason": "too fragile"},
    "lowrank_svd": {"status": "selected", "scope": "ffn@layer=1", "rank": 96},
}


def conditions(**changes: object) -> dict[str, Conditions]:
    text = TextFacts("synthetic", "evaluation", 3, "a" * 64, 100, 400, 50)
    made = Conditions(WindowPlan(32, 8, 8, 42), text, "b" * 64, "cpu", 8, {"torch": "1"}, lambda: DIGEST, {})
    return {"proofpack/tiny": replace(made, **changes)}  # type: ignore[arg-type]


def result(edit: str, **changes: object) -> JsonObject:
    measured = {"model_digest": DIGEST, "windows": {"seed": 42}}
    read: JsonObject = {"tried": [], "chosen": None, "beyond": None}
    return {"model": "proofpack/tiny", "edit": edit, "entry": ENTRIES[edit], "measured": measured, **read, **changes}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = resolve_run(replace(DEFAULTS, suite="tiny", mode="tune", out=str(tmp_path / "run")))
    atomic_write(run.out / MARKER, b"{}")
    return run


def stored(run: Run, *edits: str) -> TuningDirectory:
    directory = TuningDirectory(run, conditions())
    for edit in edits:
        directory.store(json.dumps(result(edit)))
    return directory


def test_the_file_is_the_same_in_whatever_order_results_come(run: Run) -> None:
    directory = stored(run, *ENTRIES)
    assert directory.missing == 0
    first = directory.write().read_bytes()
    assert stored(run, *reversed(ENTRIES)).write().read_bytes() == first
    document = json.loads(first)
    assert document["models"] == {"proofpack/tiny": ENTRIES}
    assert document["_meta"]["tuning"]["runs"] == run.suite.runs


def test_what_is_there_is_used_again_and_the_rest_is_made(run: Run) -> None:
    stored(run, "quant_rtn", "fp8_quant")
    found = scan_tunings(run, conditions())
    assert set(found.reused) == {"proofpack/tiny-quant_rtn", "proofpack/tiny-fp8_quant"}
    assert found.describe() == "2 of 4 tuned edits reused; 2 not made yet"
    directory = TuningDirectory(replace(run, reused=found.reused), conditions())
    assert directory.missing == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": lambda: "e" * 64},
        {"tokenizer_hash": "c" * 64},
        {"device": "cuda"},
        {"plan": WindowPlan(32, 9, 8, 42)},
        {"libraries": {"torch": "2"}},
    ],
)
def test_what_was_made_otherwise_is_made_again(run: Run, changes: dict[str, object]) -> None:
    stored(run, "quant_rtn")
    found = scan_tunings(run, conditions(**changes))
    assert found.refused == {"proofpack/tiny-quant_rtn": "it was made under other conditions"}


def test_a_damaged_result_is_made_again(run: Run) -> None:
    stored(run, "quant_rtn", "fp8_quant", "lowrank_svd")
    files = {path.parent.name: path for path in run.out.rglob("tuning.json")}
    files["quant_rtn"].write_text(files["quant_rtn"].read_text().replace('"bits": 4', '"bits": 5'))
    files["fp8_quant"].write_text("{")
    files["lowrank_svd"].write_text(files["lowrank_svd"].read_text().replace('"rank": 96', '"rank": 0'))
    found = scan_tunings(run, conditions())
    assert list(found.refused.values()) == ["it is not as it was written", "it cannot be read", "it cannot be read"]
    assert not found.reused


def test_what_nobody_asked_for_and_what_cannot_be_used_is_refused(run: Run) -> None:
    directory = stored(run)
    with pytest.raises(FormatError, match="nobody asked for"):
        directory.store(json.dumps(result("quant_rtn", model="acme/other")))
    with pytest.raises(FormatError, match="these are no tuned parameters"):
        directory.store(json.dumps(result("quant_rtn", entry={"status": "selected", "scope": "ffn", "bits": 99})))
    assert directory.missing == 4


def test_a_run_that_tunes_first_is_complete_once_it_has_the_parameters(tmp_path: Path) -> None:
    settings = replace(DEFAULTS, suite="tiny", model=("acme/own",), tune="auto", out=str(tmp_path / "run"))
    asked = resolve_run(settings)
    assert [request.id for request in asked.untuned] == [f"acme/own-{edit}" for edit in ENTRIES]
    tuned: JsonObject = {"_meta": {"schema": "tuned_edit_params_v1"}, "models": {"acme/own": ENTRIES}}
    run = with_tuned_edits(asked, tuned)
    assert not run.untuned
    assert [skipped[1] for skipped in run.plan.skipped] == ["prune_12pct_clean"]
    assert len(run.requests) == len(asked.requests) - run.suite.runs["clean"]
    again = resolve_run(settings, tuned=run.suite.tuned)  # as a worker does
    assert again.plan == run.plan
    assert not again.untuned


def test_a_run_that_was_begun_without_tuning_goes_on_without(tmp_path: Path) -> None:
    settings = replace(DEFAULTS, suite="tiny", model=("acme/own",), out=str(tmp_path / "run"))
    before = resolve_run(settings)
    asked = resolve_run(replace(settings, tune="auto"))
    run = with_tuned_edits(asked, before.suite.tuned)
    assert run.plan == before.plan
    assert resolve_run(asked.settings, tuned=run.suite.tuned).plan == before.plan


@pytest.mark.parametrize("changes", [{"repeats": 2}, {"runs": {"clean": 0}}])
def test_what_makes_no_sense_together_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="--proofpack-mode=tune"):
        resolve_run(replace(DEFAULTS, suite="tiny", mode="tune", **changes))  # type: ignore[arg-type]
