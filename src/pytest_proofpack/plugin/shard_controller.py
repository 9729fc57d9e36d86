"""How a session ends that makes a shard of a run: with what became of its own certificates, and no verdict."""

from __future__ import annotations

import pytest

from pytest_proofpack.common.words import shown
from pytest_proofpack.config.options import shard_numbers
from pytest_proofpack.plugin.controller import Controller
from pytest_proofpack.plugin.terminal import tell
from pytest_proofpack.report import verdict_table
from pytest_proofpack.runs.finish import ShardResult, finish_shard


class ShardController(Controller):
    """Registered in place of the controller of a whole run; certificates arrive as they do there."""

    _ended: ShardResult | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Count what is there; a session that leaves something undone has failed."""
        self._interruption.end()
        if self._idle.ends(session, exitstatus):
            return
        ended = self._ended = finish_shard(self._run, self._directory)
        if self._run.settings.repeats:
            session.testscollected += 1
            self._report("repeats", ended.drift, [])
        if self._interruption.signal is not None:
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        elif exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED} and not ended.good:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Show ratio, interval and failing gates behind the outcome under ``-v``."""
        return None if self._ended is not None else super().pytest_report_teststatus(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table of the shard's certificates, and what is done with its directory."""
        ended = self._ended
        if ended is None:
            return
        shard = str(self._run.settings.shard)
        terminalreporter.section(f"proof pack, shard {shard}")
        if self._interruption.signal is not None:
            tell(terminalreporter, f"INTERRUPTED by {self._interruption.signal}", bold=True, red=True)
        for remark in self._remarks:
            tell(terminalreporter, f"warning: {remark}", yellow=True)
        for line in verdict_table(ended.judged, width=self._config.get_terminal_writer().fullwidth):
            tell(terminalreporter, line)
        tell(terminalreporter, "")
        color = {"green": ended.good, "red": not ended.good}
        tell(terminalreporter, f"shard {shard}: {ended.describe()}", bold=True, **color)
        if ended.failure is not None:
            tell(terminalreporter, ended.failure, red=True)
        out = shown(self._run.out)
        if ended.missing or ended.failure is not None:
            tell(terminalreporter, self._advice())
        else:
            tell(terminalreporter, f"certificates: {out}")
        tell(
            terminalreporter,
            f"no verdict and no pack yet: they come of all {shard_numbers(shard)[1]} directories together: "
            "proofpack assemble DIR DIR ... --out=DIR",
        )
