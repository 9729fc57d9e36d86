"""What the job's summary of a GitHub workflow gets; that a whole session writes it, test_ci_files.py shows."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from pytest_proofpack.plugin.step_summary import StepSummary
from pytest_proofpack.runs.run import Run


class _Run:
    def __init__(self, out: Path) -> None:
        self.out = out


class _Terminal:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str, **_markup: bool) -> None:
        self.lines.append(text)


def summary(out: Path, file: Path) -> tuple[StepSummary, _Terminal]:
    made = StepSummary(cast(Run, _Run(out)), file)
    made.pytest_proofpack_verdict({"verdict": "FAIL"}, None)
    terminal = _Terminal()
    made.pytest_terminal_summary(cast(pytest.TerminalReporter, terminal))
    return made, terminal


def test_a_run_without_certificates_says_so_behind_what_other_steps_said(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    file.write_text("another step\n")
    _, terminal = summary(tmp_path, file)
    assert file.read_text().startswith("another step\n### FAIL\n\nNothing to show: ")
    assert terminal.lines == []


def test_a_summary_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    _, terminal = summary(tmp_path, tmp_path)
    assert terminal.lines[0].startswith("warning: GITHUB_STEP_SUMMARY: ")
    assert "Is a directory" in terminal.lines[0]
