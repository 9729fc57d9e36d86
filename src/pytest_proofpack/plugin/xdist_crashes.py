"""What becomes of an item whose worker died: it is tried once more, on a fresh worker, then it has failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_proofpack.common.words import printable
from pytest_proofpack.plugin.junit import location_of
from pytest_proofpack.plugin.terminal import item_name, say, tell
from pytest_proofpack.plugin.xdist_processes import WorkerProcesses
from pytest_proofpack.runs.journal import tail
from pytest_proofpack.runs.paths import errors_path

if TYPE_CHECKING:
    from xdist.scheduler.protocol import Scheduling

RETRIED = "retried"
"""Outcome of a report that says that an item is tried again."""
_TRIES = 2


class Crashes:
    """Registered in the controller: decides on items whose worker died, and says how it did."""

    def __init__(self, config: pytest.Config, processes: WorkerProcesses, out: Path) -> None:
        """Do nothing yet.

        Args:
            config: of the session.
            processes: the workers.
            out: the run directory.
        """
        self._config = config
        self._processes = processes
        self._out = out
        self._reasons: dict[str, list[str]] = {}
        self._waiting: dict[str, pytest.TestReport] = {}

    @pytest.hookimpl(trylast=True, optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Scheduling) -> None:
        """Have an item run again whose worker died for the first time; else let it fail with every reason."""
        reasons = self._reasons.setdefault(crashitem, [])
        reasons.append(self._reason(report, crashitem))
        report.longrepr = "\n".join(reasons)
        report.location = location_of(self._config, crashitem)  # so that the failure is headed by the item's name
        if report.outcome == "failed" and len(reasons) < _TRIES:
            report.outcome = cast("Any", RETRIED)  # as another plugin calls its own "rerun"
            self._waiting[crashitem] = report
            say(self._config, f"{reasons[-1].splitlines()[0]} It is tried once more.")
            sched.mark_test_pending(crashitem)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note that an item has got as far as to be reported again."""
        if report.outcome != RETRIED:
            self._waiting.pop(report.nodeid, None)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Show an item that is tried again as such."""
        if report.outcome != RETRIED:
            return None
        return RETRIED, "R", ("RETRIED", {"yellow": True})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[Any]:
        """Let items fail in the end that were to be tried again, and never were."""
        result = yield
        for report in list(self._waiting.values()):
            report.outcome = "failed"
            report.longrepr = f"{report.longrepr}\nThere was no worker left to try it once more."
            self._config.hook.pytest_runtest_logreport(report=report)
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say once more whose worker died, so that a run that went well in the end shows it."""
        for reasons in self._reasons.values():
            if len(reasons) < _TRIES:
                tell(terminalreporter, f"proofpack: {reasons[0].splitlines()[0]} It was tried once more.")

    def _reason(self, report: pytest.TestReport, nodeid: str) -> str:
        name: str = cast("Any", report).node.gateway.id
        how = self._processes.ends.get(name, "for an unknown reason")
        reason = f"Worker {name} ended {how} while it made {item_name(nodeid)}."
        path = errors_path(self._out, name)
        said = tail(path)
        return f"{reason}\n  the end of {path.relative_to(self._out)}:\n{_indented(said)}" if said else reason


def _indented(text: str) -> str:
    return "\n".join(f"  | {printable(line)}" for line in text.splitlines())
