"""What people are told at the end of a session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.runs.finish import SessionResult, summary
from pytest_proofpack.runs.run import resolve_run
from tests.support.certificates import MODEL, make_run_directory
from tests.support.default_settings import DEFAULTS


@pytest.mark.parametrize(
    ("key", "name", "shown"),
    [
        ("warnings", "baseline_quality", 1),
        ("failed_gates", "baseline_acceptable", 1),
        ("warnings", "primary_metric_tail", 0),
    ],
)
def test_a_baseline_that_does_not_know_the_text_is_told_once(tmp_path: Path, key: str, name: str, shown: int) -> None:
    run = resolve_run(replace(DEFAULTS, suite="tiny", no_pack=True, sign="off", out=str(tmp_path / "run")))
    verdict = make_run_directory(tmp_path / "made").verdict
    for row in verdict["certificates"]:
        row[key] = [*row[key], name]
    lines = [line for line in summary(run, SessionResult(verdict, None), 100) if line.text.startswith("warning: ")]
    assert [(line.good, MODEL in line.text) for line in lines] == [(False, True)] * shown
