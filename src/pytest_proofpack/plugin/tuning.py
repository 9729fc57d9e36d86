"""Sessions that tune: what their items do, and the controller that writes the tuned-parameters file."""

from __future__ import annotations

from functools import partial

import pytest

from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.common.words import printable, shown
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.plan.tuning import beyond_words, chosen_words
from pytest_proofpack.plugin.controller import header, item_status
from pytest_proofpack.plugin.junit import ONE_LINE, REUSED
from pytest_proofpack.plugin.making import TUNED, TUNING_ATTRIBUTE, WORKBENCH
from pytest_proofpack.plugin.preparation import PreparedRun
from pytest_proofpack.plugin.terminal import command_with
from pytest_proofpack.plugin.xdist_hosts import all_here
from pytest_proofpack.runs.tunings import TuningDirectory


def tune_item(item: pytest.Item, request: CertificateRequest) -> JsonObject:
    """Tune one edit and leave what came of it for the item's report; or take what an earlier session has found."""
    bench = item.config.stash[WORKBENCH]
    result = bench.run.reused.get(request.id)
    if result is None:
        from pytest_proofpack.engine.tuning import tune

        result = tune(bench.run, bench.baseline(request), request)
        item.stash[TUNED] = compact_json(result)
    else:
        item.user_properties.append((REUSED, True))
    item.user_properties.append((ONE_LINE, chosen_words(result)))
    return result


class TuningController:
    """Registered where a session that tunes is controlled, once the run is complete: never in an xdist worker."""

    def __init__(self, config: pytest.Config, prepared: PreparedRun) -> None:
        self._config = config
        self._run = prepared.run
        self._reusable = prepared.reusable
        conditions = partial(prepared.inputs.conditions, elsewhere=not all_here(config))
        self._directory = TuningDirectory(prepared.run, conditions)
        self._file: str | None = None

    def pytest_report_header(self) -> list[str]:
        """Say what is going to be tuned, and where it goes."""
        lines = [header(self._run)]
        return lines if self._reusable is None else [*lines, f"proofpack: resumed: {self._reusable.describe()}"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Store the result that a report carries, at once."""
        text = report.__dict__.pop(TUNING_ATTRIBUTE, None)
        if text is not None:
            self._directory.store(text)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Show what was chosen behind the outcome under ``-v``."""
        return item_status(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the file if everything is there; a session that leaves something undone has failed."""
        if self._directory.missing == 0:
            self._file = shown(self._directory.write())
        elif exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what was chosen, what the next stronger parameters read, and how to use the file."""
        terminalreporter.section("tuned parameters")
        for result in self._directory.results:
            terminalreporter.line(printable(f"{result['model']} {result['edit']}: {chosen_words(result)}"))
            terminalreporter.line(printable(f"  {beyond_words(result)}"))
        if self._file is None:
            terminalreporter.line(f"no file: {self._directory.missing} edits have not been tuned", red=True)
            out = f"--proofpack-out={shown(self._run.out)}"
            terminalreporter.line(printable(f"go on with: {command_with(self._config, out, '--proofpack-resume')}"))
            return
        terminalreporter.line(printable(f"tuned parameters: {self._file}"), bold=True)
        use = f"--proofpack-tuned-edit-params={self._file}"
        given = command_with(
            self._config, "--proofpack-mode=full", use, without=("--proofpack-out", "--proofpack-resume")
        )
        terminalreporter.line(printable(f"use them with: {given}"))
