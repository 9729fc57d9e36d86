"""A session that ends before any item of its run was begun, though nobody stopped it: nothing was selected, say.

It says why, and takes back what it has written; a run that it was to go on with is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_proofpack.common.words import shown
from pytest_proofpack.plugin.interruption import Interruption
from pytest_proofpack.plugin.junit import report_item
from pytest_proofpack.plugin.preparation import PreparedRun
from pytest_proofpack.plugin.terminal import tell
from pytest_proofpack.runs.claim import forget_run, holds_tuning

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController


class Idle:
    """Registered in the controller. Who writes how the run ended asks it first, see :meth:`ends`."""

    def __init__(self, config: pytest.Config, prepared: PreparedRun, interruption: Interruption) -> None:
        self._config = config
        self._run = prepared.run
        self._resumed = prepared.reusable is not None
        self._interruption = interruption
        self._prefix = f"proofpack/{prepared.run.suite.name}::"
        self._selected: int | None = None
        self._uncollected = False
        self._begun = False
        self._why: str | None = None

    @property
    def left_out(self) -> int:
        """How many of the run's items are not selected."""
        return 0 if self._selected is None else len(self._run.items) - self._selected

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the run's items that are left to be run."""
        self._count(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Iterable[str]) -> None:
        """Count those that a worker has collected."""
        self._count(ids)

    @pytest.hookimpl(trylast=True, optionalhook=True)
    def pytest_testnodedown(self, node: WorkerController, error: object) -> None:
        """End the session where a worker could not use the command line: xdist would wait for items of it.

        Raises:
            pytest.UsageError: it could not.
        """
        output: dict[str, Any] = getattr(node, "workeroutput", {})
        if not error and output.get("exitstatus") == pytest.ExitCode.USAGE_ERROR:
            raise pytest.UsageError("not found: what is named on the command line. Without -n, pytest says which.")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Take note that something could not be collected, for which pytest now ends the session."""
        self._uncollected = session.testsfailed > 0 and not session.config.option.continue_on_collection_errors

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Take note that an item of the run is begun."""
        self._begun |= nodeid.startswith(self._prefix)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Show no letter for an item that stands for the whole run."""
        return None if self._why is None or report.when != "call" else ("failed", "", ("FAILED", {"red": True}))

    def ends(self, session: pytest.Session, exitstatus: int) -> bool:
        """Tell whether no item was begun; then this is how the session ends, and nobody else writes anything.

        Args:
            session: gets a failing item for the verdict, and its exit status.
            exitstatus: what pytest has made of it so far.
        """
        self._why = self._reason(exitstatus)
        if self._why is None:
            return False
        if not self._resumed:
            self._config.add_cleanup(partial(forget_run, self._run.out))  # once nobody writes there any more
        session.testscollected += 1
        report_item(self._config, f"{self._prefix}verdict", "\n".join(self._lines(self._why)), [])
        if exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why nothing was made, what to do, and what is left."""
        if self._why is None:
            return
        terminalreporter.section("proof pack")
        for line in self._lines(self._why):
            tell(terminalreporter, line, fold=True, red=True)

    def _count(self, nodeids: Iterable[str]) -> None:
        self._selected = sum(nodeid.startswith(self._prefix) for nodeid in nodeids)

    def _reason(self, exitstatus: int) -> str | None:
        if self._begun or self._interruption.signal is not None:
            return None
        if exitstatus == pytest.ExitCode.USAGE_ERROR:
            return "pytest could not use its command line, as its ERROR says"
        if exitstatus == pytest.ExitCode.INTERRUPTED and self._uncollected:
            return "pytest could not collect what it was given, as its ERROR says"
        if exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}:
            return self._nothing_selected() if self._selected == 0 else None
        return None

    def _nothing_selected(self) -> str:
        return (
            f"nothing is selected: -k, -m, --deselect and the like leave none of the {len(self._run.items)} items of "
            f"suite {self._run.suite.name}. Change them; --collect-only -q lists what there is"
        )

    def _lines(self, why: str) -> list[str]:
        done, out = "tuned" if self._run.tunes else "certified", shown(self._run.out)
        if self._resumed:
            return [why, f"nothing was {done}; {out} keeps what earlier sessions have left there"]
        if holds_tuning(self._run.out):
            return [why, f"nothing was {done}; {out} keeps what was tuned: go on with --proofpack-resume"]
        return [why, f"nothing was {done}, and nothing of this run is left in {out}"]
