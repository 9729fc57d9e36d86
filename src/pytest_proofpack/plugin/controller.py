"""The controller's hooks: check the inputs, store certificates as they arrive, end with verdict and pack.

Completeness is counted here, certificates against requests: after a worker crash pytest's own counts can look whole
while items are missing.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_proofpack.common.files import remove_leftovers
from pytest_proofpack.common.words import printable, shown
from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.plan.pins import WORKER_INPUT, Revisions
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.plugin.items import ONE_LINE, REPEAT_ATTRIBUTE, REPORT_ATTRIBUTE, REUSED
from pytest_proofpack.runs.directory import REVISIONS, RunDirectory
from pytest_proofpack.runs.finish import Outcome, finish, summary
from pytest_proofpack.runs.resume import WORKER_INPUT as REUSED_INPUT
from pytest_proofpack.runs.resume import (
    Conditions,
    Earlier,
    Stock,
    read_earlier,
    settle_baselines,
    take_stock,
    to_text,
    with_earlier_pins,
)
from pytest_proofpack.runs.run import Run

if TYPE_CHECKING:
    from pytest_proofpack.engine.workbench import Workbench

_HERE = re.compile(r"(\d+\*)?popen(//(?!.*via=).*)?")
"""How xdist is told of a worker of this host."""


class Controller:
    """Registered where the session is controlled: never in an xdist worker."""

    def __init__(self, config: pytest.Config, run: Run, bench: Workbench) -> None:
        self._config = config
        self._run = run
        self._bench = bench
        self._directory = RunDirectory(run)
        self._revisions: Revisions | None = None
        self._stock: Stock | None = None
        self._replaces_pack = False
        self._started = False
        self._selective = False
        self._outcome: Outcome | None = None

    def pytest_report_header(self) -> list[str]:
        """Say what is going to be certified, and where it goes."""
        run = self._run
        models = ", ".join(model.id for model in run.suite.models)
        what = f"suite {run.suite.name}, {len(run.requests)} certificates of {models}"
        if run.settings.repeats:
            what += f", {run.settings.repeats} repeats of one"
        if run.suite.subjects:
            what += f", edited: {', '.join(subject.id for subject in run.suite.subjects.values())}"
        lines = [f"proofpack: {what}; run directory {shown(run.out)}"]
        return lines if self._stock is None else [*lines, f"proofpack: resumed: {self._stock.describe()}"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Check every input before the first worker starts or the first weight is loaded."""
        if self._config.option.collectonly:
            return
        try:
            earlier = self._claim()
            _check_signing(self._run)
            from pytest_proofpack.sources.preflight import resolve_sources

            self._run, self._revisions = resolve_sources(self._run, self._say, self._online_command())
            self._bench.run = self._run
            for model in self._run.suite.models:
                self._bench.prepare(model)
            if self._run.suite.subjects:
                self._settle_subjects()
            if earlier is None:
                self._directory.create(self._revisions, self._fingerprints(), workers=self._several_workers)
            else:
                self._go_on(earlier, self._revisions)
        except (ConfigurationError, PackError) as error:
            raise pytest.UsageError(str(error)) from error
        self._started = True

    def _claim(self) -> Earlier | None:
        """Take the run directory for this session; return what earlier ones have left there to go on with."""
        claim = contextlib.ExitStack()
        claim.enter_context(self._directory.claimed(resume=self._run.settings.resume))
        self._config.add_cleanup(claim.close)
        if not self._directory.holds_run:
            return None
        earlier = read_earlier(self._run.out)
        earlier.require_same_options(self._run)
        if self._directory.holds_pack:
            from pytest_proofpack.pack.replace import require_own_pack

            assert self._run.pack_dir is not None
            require_own_pack(self._run.pack_dir, self._run.suite.name)
            self._replaces_pack = True
        self._run = with_earlier_pins(self._run)
        return earlier

    def _go_on(self, earlier: Earlier, revisions: Revisions) -> None:
        """Find out what can be reused, tidy up what cannot, and let the state say that the run goes on."""
        run = self._run
        earlier.require_same_plan(run, revisions)
        self._say("looking at what is there already")
        remove_leftovers(run.out)
        stock = take_stock(run, self._conditions)
        settle_baselines(run, earlier, self._conditions, stock)
        refused = (request for request in run.requests if request.id in stock.refused)
        self._directory.go_on(earlier.session, self._fingerprints(), refused)
        self._stock = stock
        self._bench.reused = stock.reused

    def _conditions(self, model: ModelSpec) -> Conditions:
        workers = getattr(self._config.option, "tx", None) or []
        return self._bench.conditions(model, elsewhere=not all(map(_HERE.fullmatch, workers)))

    def _fingerprints(self) -> dict[str, str]:
        return {model.id: self._conditions(model).fingerprint for model in self._run.suite.models}

    @property
    def _several_workers(self) -> bool:
        """Whether certificates are made by more than one process; xdist was told "popen" once for each."""
        return self._config.pluginmanager.hasplugin("dsession") and self._config.option.tx != ["popen"]

    def _pins(self) -> Revisions:
        """Return the pinned commits; while only collecting, nothing has been pinned."""
        return self._revisions or Revisions(self._run.suite.name, "", ())

    def _say(self, line: str) -> None:
        """Show progress of the preflight, unless pytest is to be quiet."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self._config.get_verbosity() >= 0:
            reporter.write_line(printable(f"proofpack: {line}"))

    def _online_command(self) -> str:
        """Return what the user typed, with the network turned on."""
        return self._command("--proofpack-net=1")

    def _resume_command(self) -> str:
        """Return what the user typed, with what goes on with this run."""
        return self._command(f"--proofpack-out={shown(self._run.out)}", "--proofpack-resume")

    def _command(self, *options: str) -> str:
        """Return what the user typed, with these options in place of what was said by them."""
        flags = tuple(option.partition("=")[0] for option in options)
        given = [text for text in self._config.invocation_params.args if not text.startswith(flags)]
        return shlex.join(["pytest", *given, *options])

    def _settle_subjects(self) -> None:
        """Read the subjects' files and let the run's state say what they are and what their edits are called."""
        from pytest_proofpack.plan.byoe import settled_suite

        run = self._run
        (baseline,) = run.suite.models
        digests = {
            request.scenario.id: self._bench.prepare_subject(request).digest
            for request in run.requests
            if request.subject is not None
        }
        suite = settled_suite(run.suite, run.plan, self._bench.digest(baseline), digests)
        self._run = replace(run, suite=suite)
        self._directory = RunDirectory(self._run)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Send the resolved settings, the pinned commits and what is reused to a new xdist worker."""
        self._run.settings.send_to(node)
        node.workerinput[WORKER_INPUT] = self._pins().to_text()
        node.workerinput[REUSED_INPUT] = to_text(self._bench.reused)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Store the certificate that a report carries, at once, and drop it from memory."""
        text, repeat = report.__dict__.pop(REPORT_ATTRIBUTE, None), report.__dict__.pop(REPEAT_ATTRIBUTE, 0)
        if text is not None and repeat:
            node = getattr(report, "node", None)
            self._directory.note_repeat(text, repeat, None if node is None else node.gateway.id)
        elif text is not None:
            self._directory.store(text)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Show ratio, interval and failing gates behind the outcome under ``-v``."""
        properties = dict(getattr(report, "user_properties", ()))
        line = properties.get(ONE_LINE)
        if REUSED in properties:
            line = f"{line} (reused)"
        if report.when != "call" or line is None or self._outcome is not None:
            return None  # once the verdict is out, the short summary shows plain words and node ids
        if hasattr(report, "wasxfail"):
            return (
                ("xpassed", "X", (f"XPASS {line}", {"yellow": True}))
                if report.passed
                else ("xfailed", "x", (f"XFAIL {line}", {"yellow": True}))
            )
        if report.passed:
            return "passed", ".", (f"PASSED {line}", {"green": True})
        return "failed", "F", (f"FAILED {line}", {"red": True})

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the verdict, build the pack, report both as one more item (repeats as another), set the exit status."""
        if not self._started:
            return
        complete = exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}
        self._selective = complete and session.testscollected < len(self._run.items)
        self._outcome = finish(self._run, self._directory, interrupted=not complete, replaces_pack=self._replaces_pack)
        outcome = self._outcome
        if outcome.repeats is not None:
            session.testscollected += 1
            self._report("repeats", outcome.drift, [("proofpack_bit_identical", outcome.repeats["bit_identical"])])
        session.testscollected += 1  # the verdict, so that progress ends at 100 %
        self._report_verdict(outcome)
        if complete and not (outcome.proved and outcome.drift is None):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, the verdict, and where the pack is and how to verify it."""
        if self._config.option.collectonly:
            self._show_plan(terminalreporter)
        if self._outcome is None:
            return
        outcome = self._outcome
        terminalreporter.section("proof pack")
        for line in summary(self._run, outcome, terminalreporter._tw.fullwidth):
            color = {} if line.good is None else {"green": line.good, "red": not line.good}
            terminalreporter.line(line.text, bold=line.bold, **color)
        if not (outcome.complete or self._selective):
            terminalreporter.line(printable(f"go on with: {self._resume_command()}"))
        if self._run.settings.net:
            revisions = shown(self._run.out / REVISIONS)
            terminalreporter.line(f"rerun it offline with: --proofpack-revisions={revisions}")

    def _show_plan(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what is known of the models, after the ids that pytest collected."""
        from pytest_proofpack.devices.model_shapes import memory_text
        from pytest_proofpack.sources.expected_sizes import plan_lines

        terminalreporter.section(f"models of suite {self._run.suite.name}")
        for line in plan_lines(self._run, partial(memory_text, self._run)):
            terminalreporter.line(printable(line))

    def _report_verdict(self, outcome: Outcome) -> None:
        """Report the verdict, with the pack's digest, as an item and in the JUnit suite."""
        properties: list[tuple[str, object]] = [
            ("proofpack_verdict", outcome.verdict["verdict"]),
            ("proofpack_suite", self._run.suite.name),
        ]
        if outcome.pack is not None:
            properties.append(("proofpack_manifest_sha256", outcome.pack.manifest_sha256))
        _add_suite_properties(self._config, properties)
        self._report("verdict", None if outcome.proved else outcome.why, properties)

    def _report(self, name: str, why: str | None, properties: list[tuple[str, object]]) -> None:
        """Send a result through pytest as one more item, so that failures and JUnit show it; ``why`` if it failed."""
        nodeid = f"proofpack/{self._run.suite.name}::{name}"
        location = (nodeid.partition("::")[0], None, name)
        self._config.hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
        now = time.time()
        for when in ("setup", "call", "teardown"):
            failed = when == "call" and why is not None
            self._config.hook.pytest_runtest_logreport(
                report=pytest.TestReport(
                    nodeid=nodeid,
                    location=location,
                    keywords={},
                    outcome="failed" if failed else "passed",
                    longrepr=why if failed else None,
                    when=when,
                    user_properties=properties,
                    start=now,
                    stop=now,
                )
            )
        self._config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)


def _add_suite_properties(config: pytest.Config, properties: list[tuple[str, object]]) -> None:
    """Add properties to the JUnit suite, if there is one; pytest has no public way outside of a fixture."""
    from _pytest.junitxml import xml_key

    xml = config.stash.get(xml_key, None)
    if xml is not None:
        for name, value in properties:
            xml.add_global_property(name, value)


def _check_signing(run: Run) -> None:
    """Fail now, not after the work, if a signature is required and cannot be made."""
    if run.pack_dir is not None and run.settings.sign == "required":
        from pytest_proofpack.pack.sign import SigningMode, choose_signer

        choose_signer(SigningMode.REQUIRED, run.settings.gpg_key)
