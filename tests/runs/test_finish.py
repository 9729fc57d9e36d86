"""What people are told at the end of a session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.common.strict_json import read_json
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


def test_what_the_verdict_was_judged_by_is_said_with_it(tmp_path: Path) -> None:
    settings = replace(DEFAULTS, suite="tiny", tier="aggressive", no_pack=True, sign="off", out=str(tmp_path / "run"))
    verdict = make_run_directory(tmp_path / "made").verdict
    lines = [line.text for line in summary(resolve_run(settings), SessionResult(verdict, None), 100)]
    assert lines[lines.index("verdict: PASS") + 1] == "judged by: tier aggressive, ratio at most 1.2"


@pytest.mark.parametrize(("drop", "untried", "word"), [(0, True, "PASS"), (1, True, "INCOMPLETE"), (1, False, "FAIL")])
def test_people_read_incomplete_where_nothing_but_certificates_is_missing(
    tmp_path: Path, drop: int, untried: bool, word: str
) -> None:
    made = make_run_directory(tmp_path / "made")
    document = read_json(tmp_path / "made/state/scenarios.json")
    verdict = compute_verdict(document, list(made.certificates.values())[drop:])
    result = SessionResult(verdict, None, untried=untried)
    assert (result.word, verdict["verdict"], verdict["complete"]) == (word, "FAIL" if drop else "PASS", not drop)
    assert not result.proved or not drop


def test_why_names_model_scenario_and_ratio_in_its_first_line(tmp_path: Path) -> None:
    verdict = make_run_directory(tmp_path / "made").verdict
    row = next(row for row in verdict["certificates"] if "ratio" in row)
    entry = {"requirement": "clean_all_pass", "message": "a clean edit must pass every gate"}
    failed = [{**entry, **{key: row[key] for key in ("model", "scenario", "run")}}] * 2
    result = SessionResult({**verdict, "verdict": "FAIL", "failed_requirements": failed}, None)
    first = result.why.splitlines()[0]
    assert first.startswith(f"verdict: FAIL: {row['model']}: {row['scenario']}, run 1: ratio {row['ratio']:.4f}; ")
    assert first.endswith(" (and 1 more)")
