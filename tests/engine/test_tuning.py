"""Tuned parameters pass on the windows of the run: the embedded model, and models of two architectures trained here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits.prune import MAGNITUDE_PRUNE
from pytest_proofpack.engine.baseline import Baseline, load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.engine.tuning import tune
from pytest_proofpack.plan.edit_kinds import EDITS
from pytest_proofpack.plan.edit_specs import edit_from_tuned_entry
from pytest_proofpack.plan.ladders import Ladder
from pytest_proofpack.plan.records import EditSpec
from pytest_proofpack.plan.suites import WindowChoice
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS
from tests.support.own_edit import SOFT_THRESHOLD
from tests.support.small_models import weights_digest
from tests.support.trained_models import build_trained_directory

pytestmark = pytest.mark.slow  # dozens of certificates

RUNS = 2
DOCUMENTS = 900
"""Enough of the language for two draws and the tuning's windows beside them."""


def runs_of(model: Path | None, folder: Path) -> tuple[Run, Run]:
    """Return a run that tunes a model, and the run that it tunes for, on windows of 64 tokens."""
    given = () if model is None else (str(model),)
    settings = replace(DEFAULTS, suite="tiny", model=given, no_pack=True, sign="off", out=str(folder / "run"))
    settings = replace(settings, runs={"calibration": 1, "clean": RUNS})

    def shorter(run: Run) -> Run:
        text = replace(run.suite.text, documents=DOCUMENTS)
        return replace(run, suite=replace(run.suite, text=text, windows=WindowChoice(seq_len=64)))

    return shorter(resolve_run(replace(settings, mode="tune"))), shorter(resolve_run(settings))


def loaded(run: Run) -> Baseline:
    return load_baseline(run, prepare_model(run, run.suite.models[0]))


@pytest.fixture(scope="module")
def small_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_trained_directory(tmp_path_factory.mktemp("trained") / "gpt2", "gpt2")


@pytest.mark.parametrize("architecture", ["embedded", "gpt2", "llama"])
def test_what_was_tuned_passes_on_windows_that_tuning_never_saw(
    architecture: str, small_gpt2: Path, tmp_path: Path
) -> None:
    models: dict[str, Callable[[], Path | None]] = {
        "embedded": lambda: None,
        "gpt2": lambda: small_gpt2,
        "llama": lambda: build_trained_directory(tmp_path / "llama", "llama"),
    }
    tuning, run = runs_of(models[architecture](), tmp_path)
    baseline = loaded(tuning)
    before = weights_digest(baseline.model)
    results = {request.edit_name: tune(tuning, baseline, request) for request in tuning.requests}
    assert weights_digest(baseline.model) == before
    judge = loaded(run)
    own = baseline.draws[0].windows
    apart = {*own.preview_ids, *own.final_ids}

    for request in tuning.requests:
        result = results[request.edit_name]
        assert 1 <= len(result["tried"]) <= 8
        assert result["entry"]["status"] == "selected", (request.edit_name, result["entry"])
        edit = edit_from_tuned_entry(request.edit_name, result["entry"], "test")
        assert edit is not None
        for number in range(1, RUNS + 1):
            with edited_subject(run, judge, replace(request, edit=edit, run=number)) as subject:
                certificate = certify(run, subject)
            assert certificate["outcome"]["passed"], (edit, certificate["outcome"])
            windows = certificate["evaluation_windows"]
            assert not apart & {*windows["preview"]["window_ids"], *windows["final"]["window_ids"]}
        if result["beyond"] is not None:
            assert not result["tried"][result["beyond"]]["holds"]


def test_an_edit_that_no_rung_of_fits_is_skipped_with_its_reason(
    small_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning, _ = runs_of(small_gpt2, tmp_path)
    request = next(request for request in tuning.requests if request.edit_name == "magnitude_prune")
    harsh = Ladder(lambda _reach: [{"sparsity": 0.9}, {"sparsity": 0.95}, {"sparsity": 0.99}])
    monkeypatch.setitem(MAGNITUDE_PRUNE.__dict__, "ladder", harsh)
    result: JsonObject = tune(tuning, loaded(tuning), request)
    assert result["entry"]["status"] == "skipped"
    assert "even the gentlest rung" in result["entry"]["reason"]
    assert [step["parameters"]["sparsity"] for step in result["tried"]] == [0.95, 0.9]
    assert result["chosen"] is None


def test_an_edit_of_an_extension_climbs_its_own_ladder(small_gpt2: Path, tmp_path: Path) -> None:
    tuning, _ = runs_of(small_gpt2, tmp_path)
    request = replace(tuning.requests[0], edit=EditSpec("soft_threshold", "attn", {}))
    EDITS.register(SOFT_THRESHOLD)
    try:
        result = tune(tuning, loaded(tuning), request)
    finally:
        EDITS.unregister(SOFT_THRESHOLD.name)
    assert result["edit"] == "soft_threshold"
    assert 1e-6 < result["entry"]["threshold"] < 10.0
    assert result["entry"]["scope"] == "attn"
    assert len(result["tried"]) <= 4
