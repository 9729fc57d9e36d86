"""What the workers of a run share of a baseline: measured by one, and no longer waited for than it is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_proofpack.engine.baseline import baseline_sample, load_baseline
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.runs.paths import BASELINE, NULL_RATIOS, SHARED
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = resolve_run(replace(DEFAULTS, suite="tiny", no_pack=True, out=str(tmp_path / "run"), runs={"calibration": 1}))
    (run.out / SHARED).parent.mkdir(parents=True)
    (run.out / SHARED).touch()
    return run


def test_null_statistics_that_another_worker_measures_are_waited_for_when_they_are_needed(run: Run) -> None:
    (model,) = run.suite.models
    prepared = prepare_model(run, model)
    folder = run.out / run.suite.folders[model.id] / BASELINE
    folder.mkdir(parents=True)
    with FileLock((folder / NULL_RATIOS).with_suffix(".lock")):
        baseline = load_baseline(run, prepared)
        assert baseline.null is None
        assert not (folder / NULL_RATIOS).exists()

    baseline_sample(run, baseline, 1)  # the other one has died without them
    assert baseline.null_log_ratios.keys() == {"attn", "ffn"}
    assert (folder / NULL_RATIOS).is_file()

    again = load_baseline(run, prepared)
    assert again.null == baseline.null
