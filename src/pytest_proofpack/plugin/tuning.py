"""Sessions that tune: what their items do, and the controller that writes the tuned-parameters file."""

from __future__ import annotations

import pytest

from pytest_proofpack.certificate.explain import gate_words
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.common.words import shown
from pytest_proofpack.errors import EvaluationError, StorageError
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.plan.tuning import beyond_words, chosen_words
from pytest_proofpack.plugin.controller import item_status, session_header
from pytest_proofpack.plugin.idle import Idle
from pytest_proofpack.plugin.interruption import Interruption
from pytest_proofpack.plugin.junit import ONE_LINE, REUSED, fail_report
from pytest_proofpack.plugin.making import MADE, TUNING_ATTRIBUTE, WORKBENCH, shortage_told
from pytest_proofpack.plugin.preparation import PreparedRun
from pytest_proofpack.plugin.terminal import command_with, resume_command, tell
from pytest_proofpack.runs.claim import holds_run
from pytest_proofpack.runs.tunings import TuningDirectory


def tune_item(item: pytest.Item, request: CertificateRequest) -> JsonObject:
    """Tune one edit and leave what came of it for the item's report; or take what an earlier session has found."""
    bench = item.config.stash[WORKBENCH]
    result = bench.run.reused.get(request.id)
    if result is None:
        from pytest_proofpack.engine.tuning import tune

        with shortage_told(bench, request):
            result = tune(bench.run, bench.baseline(request), request)
        bench.require_unchanged(request)
        item.stash[MADE] = {TUNING_ATTRIBUTE: compact_json(result)}
    else:
        item.user_properties.append((REUSED, True))
    item.user_properties.append((ONE_LINE, chosen_words(result)))
    return result


class TuningController:
    """Registered where a session that tunes is controlled, once the run is complete: never in an xdist worker."""

    def __init__(self, config: pytest.Config, prepared: PreparedRun, interruption: Interruption, idle: Idle) -> None:
        self._config = config
        self._interruption = interruption
        self._idle = idle
        self._ended = False
        self._run = prepared.run
        self._reusable = prepared.reusable
        self._directory = TuningDirectory(prepared.run, prepared.conditions)
        self._file: str | None = None
        self._unwritten: str | None = None
        interruption.advice = f"INTERRUPTED; {self._advice()}"

    def pytest_report_header(self) -> list[str]:
        """Say what is going to be tuned, and where it goes."""
        return session_header(self._config, self._run, self._reusable)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Store the result that a report carries, at once."""
        text = report.__dict__.pop(TUNING_ATTRIBUTE, None)
        if text is None:
            return
        try:
            with self._interruption.held_back():
                self._directory.store(text)
        except (EvaluationError, StorageError) as error:
            fail_report(report, str(error))

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Show what was chosen behind the outcome under ``-v``."""
        return item_status(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the file if everything is there; a session that leaves something undone has failed."""
        self._interruption.end()
        if self._idle.ends(session, exitstatus):
            return
        self._ended = True
        if self._directory.missing == 0:
            try:
                self._file = shown(self._directory.write())
            except StorageError as error:
                self._unwritten = str(error)
        if self._interruption.signal is not None:
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        elif self._file is None and exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what was chosen, what the next stronger parameters read, and how to use the file."""
        if not self._ended:
            return
        terminalreporter.section("tuned parameters")
        missing, wanted = self._directory.missing, len(self._run.requests)
        if self._interruption.signal is not None:
            how = f"INTERRUPTED by {self._interruption.signal}"
            tell(terminalreporter, f"{how}: {wanted - missing} of {wanted} edits are tuned", bold=True, red=True)
        for result in self._directory.results:
            tell(terminalreporter, f"{result['model']} {result['edit']}: {chosen_words(result)}")
            tell(terminalreporter, f"  {beyond_words(result, gate_words)}")
        if self._file is None:
            why = f"not written: {self._unwritten}" if self._unwritten else f"{missing} edits have not been tuned"
            tell(terminalreporter, f"no file: {why}", red=True)
            if holds_run(self._run.out):
                tell(terminalreporter, self._advice())
            return
        tell(terminalreporter, f"tuned parameters: {self._file}", bold=True)
        use = f"--proofpack-tuned-edit-params={self._file}"
        given = command_with(
            self._config, "--proofpack-mode=full", use, without=("--proofpack-out", "--proofpack-resume")
        )
        tell(terminalreporter, f"use them with: {given}")

    def _advice(self) -> str:
        return f"go on with: {resume_command(self._config, self._run.out)}"
