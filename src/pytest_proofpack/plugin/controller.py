"""The controller's hooks: store certificates as they arrive, end with verdict and pack.

Completeness is counted here, certificates against requests: after a worker crash pytest's own counts can look whole
while items are missing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pytest_proofpack.certificate.explain import remarks
from pytest_proofpack.common.words import printable, shown
from pytest_proofpack.errors import EvaluationError, StorageError
from pytest_proofpack.plugin.idle import Idle
from pytest_proofpack.plugin.interruption import Interruption
from pytest_proofpack.plugin.junit import (
    ONE_LINE,
    OUTCOME,
    REUSED,
    Properties,
    add_suite_properties,
    add_system_out,
    fail_report,
    report_item,
)
from pytest_proofpack.plugin.making import REPEAT_ATTRIBUTE, REPORT_ATTRIBUTE
from pytest_proofpack.plugin.preparation import PreparedRun
from pytest_proofpack.plugin.terminal import resume_command, say, tell, untyped_words, whole_command, wrapped
from pytest_proofpack.runs.claim import holds_run
from pytest_proofpack.runs.finish import SessionResult, finish, summary
from pytest_proofpack.runs.paths import REVISIONS
from pytest_proofpack.runs.resume import Reusable
from pytest_proofpack.runs.run import Run


class Controller:
    """Registered where the session is controlled, once the run is complete: never in an xdist worker."""

    def __init__(self, config: pytest.Config, prepared: PreparedRun, interruption: Interruption, idle: Idle) -> None:
        self._config = config
        self._interruption = interruption
        self._idle = idle
        self._prepared = prepared
        self._run = prepared.run
        self._directory = prepared.directory
        self._left_out = 0
        self._failed = False
        self._result: SessionResult | None = None
        self._remarks: dict[str, None] = {}
        interruption.advice = f"INTERRUPTED; {self._advice()}"

    def pytest_report_header(self) -> list[str]:
        """Say what is going to be certified, and where it goes."""
        return session_header(self._config, self._run, self._prepared.reusable)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Iterator[None]:
        """Store the certificate that a report carries, at once, and drop it from memory."""
        self._take(report)
        yield
        add_system_out(self._config, report)

    def _take(self, report: pytest.TestReport) -> None:
        text, repeat = report.__dict__.pop(REPORT_ATTRIBUTE, None), report.__dict__.pop(REPEAT_ATTRIBUTE, 0)
        self._failed |= report.failed
        if text is None:
            return
        try:
            self._store(text, repeat, getattr(report, "node", None))
        except (EvaluationError, StorageError) as error:
            self._failed = True
            fail_report(report, str(error))

    def _store(self, text: str, repeat: int, node: Any) -> None:
        if repeat:
            self._directory.note_repeat(text, repeat, None if node is None else node.gateway.id)
            return
        with self._interruption.held_back():
            certificate, request = self._directory.store(text)
        self._remarks |= dict.fromkeys(remarks(certificate))
        self._config.hook.pytest_proofpack_certificate(certificate=certificate, request=request)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Show ratio, interval and failing gates behind the outcome under ``-v``."""
        if self._result is None:
            return item_status(report)
        if report.when != "call" or self._config.get_verbosity() > 0:
            return None
        # no letter behind the 100 %
        return (
            ("passed", "", ("PASSED", {"green": True})) if report.passed else ("failed", "", ("FAILED", {"red": True}))
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the verdict, build the pack, report both as one more item (repeats as another), set the exit status."""
        interruption = self._interruption
        interruption.end()
        if self._idle.ends(session, exitstatus):
            return
        complete = exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}
        result = self._finish(interrupted=not complete or interruption.signal is not None)
        complete = complete and interruption.signal is None
        self._left_out = self._idle.left_out if complete and result.verdict["missing"] else 0
        self._result = result
        if result.repeats is not None:
            session.testscollected += 1
            self._report("repeats", result.drift, [("proofpack_bit_identical", result.repeats["bit_identical"])])
        session.testscollected += 1  # the verdict, so that progress ends at 100 %
        self._report_verdict(result)
        if interruption.signal is not None:
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        elif complete and not (result.proved and result.drift is None):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._config.hook.pytest_proofpack_verdict(verdict=copy.deepcopy(result.verdict), pack=result.pack)

    def _finish(self, *, interrupted: bool) -> SessionResult:
        """Write verdict and pack; a signal that comes while the pack is written leaves none."""
        if self._run.pack_dir is not None and not interrupted:
            say(self._config, "writing verdict and pack")  # which takes a while
        how_to_finish = partial(finish, self._run, self._directory, replaces_pack=self._prepared.replaces_pack)
        try:
            with self._interruption.welcome():
                result = how_to_finish(interrupted=interrupted)
        except KeyboardInterrupt:
            result = how_to_finish(interrupted=True)
        return replace(result, untried=not self._failed)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, the verdict, and where the pack is and how to verify it."""
        result = self._result
        if result is None:
            return
        terminalreporter.section("proof pack")
        if self._interruption.signal is not None:
            wanted, missing = len(self._run.requests), len(result.verdict["missing"])
            how = f"INTERRUPTED by {self._interruption.signal}"
            tell(terminalreporter, f"{how}: {wanted - missing} of {wanted} certificates are there", bold=True, red=True)
        for remark in self._remarks:
            tell(terminalreporter, f"warning: {remark}", fold=True, yellow=True)
        brief = self._config.get_verbosity() < 0
        if brief and (told := untyped_words(self._config)):  # pytest shows no header then
            tell(terminalreporter, told, fold=True)
        for line in summary(self._run, result, self._config.get_terminal_writer().fullwidth, brief=brief):
            color = {} if line.good is None else {"green": line.good, "red": not line.good}
            tell(terminalreporter, line.text, fold=not line.command, bold=line.bold, **color)
        if not result.complete and holds_run(self._run.out):
            tell(terminalreporter, self._advice())
        if self._run.settings.net:
            revisions = shown(self._run.out / REVISIONS)
            tell(terminalreporter, f"rerun it offline with: --proofpack-revisions={revisions}")

    def _advice(self) -> str:
        if self._left_out:
            left = f"{self._left_out} of {len(self._run.items)} items were left out by -k, -m, --deselect and the like"
            return f"{left}; make them with: {whole_command(self._config, self._run.out, self._run.suite.name)}"
        return f"go on with: {resume_command(self._config, self._run.out)}"

    def _report_verdict(self, result: SessionResult) -> None:
        """Report the verdict, with the pack's digest, as an item and in the JUnit suite."""
        properties: Properties = [
            ("proofpack_verdict", result.verdict["verdict"]),
            ("proofpack_complete", result.verdict["complete"]),
            ("proofpack_suite", self._run.suite.name),
        ]
        if result.pack is not None:
            properties.append(("proofpack_manifest_sha256", result.pack.manifest_sha256))
        add_suite_properties(self._config, properties)
        self._report("verdict", None if result.proved else result.why, properties)

    def _report(self, name: str, why: str | None, properties: Properties) -> None:
        report_item(self._config, f"proofpack/{self._run.suite.name}::{name}", why, properties)


class PlanOnly:
    """Registered in place of the controller where items are only collected: says what would be done."""

    def __init__(self, asked: Run) -> None:
        self._run = asked
        self._problems: list[str] = []

    def pytest_report_header(self, config: pytest.Config) -> list[str]:
        """Say what would be certified."""
        return session_header(config, self._run, None)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """End as the run would where a file of it is missing or cannot be used."""
        from pytest_proofpack.sources.expected_sizes import plan_problems

        self._problems = plan_problems(self._run)
        if self._problems and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what is known of the models, after the ids that pytest collected."""
        from pytest_proofpack.devices.model_shapes import memory_text
        from pytest_proofpack.sources.expected_sizes import plan_lines

        terminalreporter.section(printable(f"models of suite {self._run.suite.name}"))
        for line in plan_lines(self._run, partial(memory_text, self._run)):
            tell(terminalreporter, line, fold=True, red=any(problem in line for problem in self._problems))
        if self._problems:
            tell(terminalreporter, "A run would end at once.", red=True)


def item_status(report: pytest.TestReport) -> tuple[str, str, object] | None:
    """Return how the outcome of an item is shown that says in one line what it found; None for another report.

    Its word is what people read of the certificate. What is informational is counted as such, whatever its gates say.
    """
    properties = dict(getattr(report, "user_properties", ()))
    line = properties.get(ONE_LINE)
    if REUSED in properties:
        line = f"{line} (reused)"
    if report.when != "call" or line is None:
        return None
    word = properties.get(OUTCOME, "PASSED")
    if hasattr(report, "wasxfail"):
        return "info", "i", (f"{word} {line}", {"cyan": True})
    if report.passed:
        return "passed", ".", (f"{word} {line}", {"green": True})
    return "failed", "F", (f"FAILED {line}", {"red": True})


def session_header(config: pytest.Config, run: Run, reusable: Reusable | None) -> list[str]:
    """Return what a session is going to do, where that goes, what nobody typed of it, and what it goes on with."""
    told = untyped_words(config)
    lines = [header(run), *([f"proofpack: {told}"] if told else [])]
    if reusable is not None:
        lines.append(f"proofpack: resumed: {reusable.describe()}")
    return [text for line in lines for text in wrapped(config, line)]


def header(run: Run) -> str:
    """Return what a run is going to certify, and where it goes, in one line."""
    models = ", ".join(model.id for model in run.unedited)
    counted = "clean edits to tune" if run.tunes else "certificates"
    what = f"suite {run.suite.name}, {len(run.requests)} {counted} of {models}"
    if run.share is not None:
        what += f" (shard {run.settings.shard} of {len(run.plan.requests)})"
    if run.untuned:
        what += f", {len(run.untuned)} clean edits to tune first"
    if run.settings.repeats:
        what += f", {run.settings.repeats} repeats of one"
    if run.subjects:
        what += f", edited: {', '.join(subject.id for subject in run.subjects.values())}"
    own = f"; {run.own_limits}" if run.own_limits else ""
    return f"proofpack: {what}; {run.judged_by}{own}; run directory {shown(run.out)}"
