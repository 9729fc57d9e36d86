"""The controller of a session that tunes: what cannot be kept fails its item, and a signal ends it like any other."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_proofpack.common import files
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.plan.records import TextFacts, WindowPlan
from pytest_proofpack.plugin.idle import Idle
from pytest_proofpack.plugin.interruption import Interruption
from pytest_proofpack.plugin.making import TUNING_ATTRIBUTE
from pytest_proofpack.plugin.preparation import PreparedRun
from pytest_proofpack.plugin.tuning import TuningController
from pytest_proofpack.runs.conditions import Conditions
from pytest_proofpack.runs.paths import MARKER
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS

MODEL = "proofpack/tiny"
EDITS = ("quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd")
ENTRY = {"status": "skipped", "reason": "too fragile"}


class Session:
    """A tuning session of the embedded model, of which there is only the controller."""

    def __init__(self, config: pytest.Config, run: Run) -> None:
        text = TextFacts("synthetic", "evaluation", 3, "a" * 64, 100, 400, 50)
        made = Conditions(WindowPlan(32, 8, 8, 42), text, "b" * 64, "cpu", 8, {"torch": "1"}, lambda: "d" * 64, {})
        self.interruption = Interruption(config)
        prepared = cast("PreparedRun", SimpleNamespace(run=run, reusable=None, conditions={MODEL: made}))
        idle = Idle(config, prepared, self.interruption)
        self.controller = TuningController(config, prepared, self.interruption, idle)

    def report(self, edit: str) -> pytest.TestReport:
        """Let the report of an edit that was tuned come in."""
        measured = {"model_digest": "d" * 64, "windows": {"seed": 42}}
        result = {"model": MODEL, "edit": edit, "entry": ENTRY, "measured": measured, "tried": [{}]}
        report = pytest.TestReport("item", ("item", None, "item"), {}, "passed", None, "call")
        setattr(report, TUNING_ATTRIBUTE, json.dumps({**result, "chosen": None, "beyond": None}))
        self.controller.pytest_runtest_logreport(report)
        return report

    def end(self, status: pytest.ExitCode = pytest.ExitCode.OK) -> tuple[int, list[str]]:
        """End the session; return its exit status and what it said."""
        session, lines = SimpleNamespace(exitstatus=status), list[str]()
        self.controller.pytest_sessionfinish(cast("pytest.Session", session), status)
        reporter: Any = SimpleNamespace(section=lines.append, line=lambda line, **_: lines.append(line))
        self.controller.pytest_terminal_summary(reporter)
        return session.exitstatus, lines


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = resolve_run(replace(DEFAULTS, suite="tiny", mode="tune", out=str(tmp_path / "run")))
    atomic_write(run.out / MARKER, b"{}")
    return run


@pytest.fixture
def session(pytestconfig: pytest.Config, run: Run) -> Session:
    return Session(pytestconfig, run)


def test_what_cannot_be_stored_fails_its_item_in_one_line(
    session: Session, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _raw: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as disk:
        disk.setattr(files, "_write_beside", full)
        report = session.report("quant_rtn")
    assert report.failed
    assert "tuning.json: cannot be written (No space left on device); its file system has " in str(report.longrepr)
    assert len(str(report.longrepr).splitlines()) == 1

    assert [session.report(edit).outcome for edit in EDITS[1:]] == ["passed"] * 3
    status, lines = session.end(pytest.ExitCode.TESTS_FAILED)
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "no file: 1 edits have not been tuned" in lines
    assert lines[-1].startswith("go on with: ")
    assert str(run.out) in lines[-1]


def test_a_file_that_cannot_be_written_is_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for edit in EDITS:
        session.report(edit)

    def full(path: Path, _raw: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "_write_beside", full)
    status, lines = session.end()
    assert status == pytest.ExitCode.TESTS_FAILED
    assert any(line.startswith("no file: not written: ") and "No space left on device" in line for line in lines)


def test_a_run_directory_that_is_deleted_midway_is_not_made_again(session: Session, run: Run) -> None:
    session.report("quant_rtn")
    shutil.rmtree(run.out)
    report = session.report("fp8_quant")
    assert report.failed
    assert "was deleted, or moved away, while the run was under way" in str(report.longrepr)
    _, lines = session.end(pytest.ExitCode.TESTS_FAILED)
    assert not [line for line in lines if line.startswith("go on with")]
    assert not run.out.exists()


def test_a_signal_waits_for_what_is_being_stored_and_says_how_to_go_on(
    session: Session, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = files._write_beside

    def struck(path: Path, raw: bytes) -> None:
        session.interruption._handle(signal.SIGTERM, None)
        usual(path, raw)

    monkeypatch.setattr(files, "_write_beside", struck)
    with pytest.raises(KeyboardInterrupt):
        session.report("quant_rtn")
    assert list(run.out.rglob("tuning.json"))
    assert "go on with: " in session.interruption.advice

    status, lines = session.end(pytest.ExitCode.INTERRUPTED)
    assert status == pytest.ExitCode.INTERRUPTED
    assert "INTERRUPTED by SIGTERM: 1 of 4 edits are tuned" in lines
    assert lines[-1].startswith("go on with: ")
