"""In a GitHub workflow, the job's summary gets the result as Markdown: what ``proofpack show`` prints of it.

The pack is verified for it though this process has just written it: nobody else reads it back in the session, and the
summary says "verified", which people of the pull request rely on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import shown
from pytest_proofpack.errors import ProofPackError
from pytest_proofpack.pack.write import PackResult
from pytest_proofpack.plugin.terminal import tell
from pytest_proofpack.results.opened import open_results
from pytest_proofpack.results.show import show_markdown
from pytest_proofpack.runs.run import Run

VARIABLE = "GITHUB_STEP_SUMMARY"
"""Names the file to which a step appends its summary."""


class StepSummary:
    """Registered in the controller where a workflow asks for summaries."""

    def __init__(self, run: Run, file: Path) -> None:
        self._run = run
        self._file = file
        self._problem: str | None = None

    def pytest_proofpack_verdict(self, verdict: JsonObject, pack: PackResult | None) -> None:
        """Append the result. That this fails is told, and changes no verdict."""
        try:
            text = show_markdown(open_results(self._run.out if pack is None else pack.directory))
        except ProofPackError as error:
            text = f"### {verdict['verdict']}\n\nNothing to show: {error}\n"
        try:
            with self._file.open("a", encoding="utf-8") as summary:
                summary.write(text + "\n")
        except OSError as error:
            why = f"{shown(self._file)}: {error.strerror}"
            self._problem = f"{VARIABLE}: {why}; the job's summary says nothing of this run"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say that the summary could not be written."""
        if self._problem is not None:
            tell(terminalreporter, f"warning: {self._problem}", yellow=True)
