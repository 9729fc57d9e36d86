"""The controller's hooks: check the inputs, store certificates as they arrive, end with verdict and pack.

Completeness is counted here, certificates against requests: after a worker crash pytest's own counts can look whole
while items are missing.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_proofpack.errors import ConfigurationError, PackError, ProofPackError
from pytest_proofpack.items import ONE_LINE, REPORT_ATTRIBUTE
from pytest_proofpack.jsonio import JsonObject
from pytest_proofpack.report import verdict_table
from pytest_proofpack.report.formatting import printable
from pytest_proofpack.revisions import WORKER_INPUT, Revisions
from pytest_proofpack.run import Run
from pytest_proofpack.run_directory import STATE, RunDirectory, network_mode

if TYPE_CHECKING:
    from pytest_proofpack.items import Workbench
    from pytest_proofpack.pack.write import PackResult


@dataclass(frozen=True)
class Outcome:
    """How the session ended; ``problem`` says why there is no pack though one was wanted."""

    verdict: JsonObject
    pack: PackResult | None = None
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether everything that was asked for is there and as it should be."""
        return self.verdict["verdict"] == "PASS" and self.problem is None


class Controller:
    """Registered where the session is controlled: never in an xdist worker."""

    def __init__(self, config: pytest.Config, run: Run, bench: Workbench) -> None:
        self._config = config
        self._run = run
        self._bench = bench
        self._directory = RunDirectory(run)
        self._revisions: Revisions | None = None
        self._started = False
        self._outcome: Outcome | None = None

    def pytest_report_header(self) -> str:
        """Say what is going to be certified, and where it goes."""
        run = self._run
        models = ", ".join(model.id for model in run.suite.models)
        what = f"suite {run.suite.name}, {len(run.requests)} certificates of {models}"
        if run.suite.subjects:
            what += f", edited: {', '.join(subject.id for subject in run.suite.subjects.values())}"
        return f"proofpack: {what}; run directory {_shown(run.out)}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Check every input before the first worker starts or the first weight is loaded."""
        if self._config.option.collectonly:
            return
        try:
            self._directory.require_empty()
            _check_signing(self._run)
            from pytest_proofpack.preflight import resolve_sources

            self._run, self._revisions = resolve_sources(self._run, self._say, self._online_command())
            self._bench.run = self._run
            for model in self._run.suite.models:
                self._bench.prepare(model)
            if self._run.suite.subjects:
                self._settle_subjects()
            self._directory.create(self._revisions, workers=self._config.pluginmanager.hasplugin("dsession"))
        except (ConfigurationError, PackError) as error:
            raise pytest.UsageError(str(error)) from error
        self._started = True

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
        given = [text for text in self._config.invocation_params.args if not text.startswith("--proofpack-net")]
        return shlex.join(["pytest", *given, "--proofpack-net=1"])

    def _settle_subjects(self) -> None:
        """Read the subjects' files and let the run's state say what they are and what their edits are called."""
        from pytest_proofpack.byoe import settled_suite
        from pytest_proofpack.model_directory import model_digest, model_path

        run = self._run
        (baseline,) = run.suite.models
        digests = {
            request.scenario.id: self._bench.prepare_subject(request).digest
            for request in run.requests
            if request.subject is not None
        }
        suite = settled_suite(run.suite, run.plan, model_digest(model_path(baseline), baseline.files), digests)
        self._run = replace(run, suite=suite)
        self._directory = RunDirectory(self._run)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Send the resolved settings and the pinned commits to a new xdist worker."""
        self._run.settings.send_to(node)
        node.workerinput[WORKER_INPUT] = self._pins().to_text()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Store the certificate that a report carries, at once, and drop it from memory."""
        text = report.__dict__.pop(REPORT_ATTRIBUTE, None)
        if text is not None:
            self._directory.store(text)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Show ratio, interval and failing gates behind the outcome under ``-v``."""
        line = dict(getattr(report, "user_properties", ())).get(ONE_LINE)
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
        """Write the verdict, build the pack, report both as one more item, and set the exit status."""
        if not self._started:
            return
        complete = exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}
        self._outcome = self._finish(build_pack=complete)
        session.testscollected += 1  # the verdict, so that progress ends at 100 %
        self._report_verdict()
        if complete and not self._outcome.passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, the verdict, and where the pack is and how to verify it."""
        if self._config.option.collectonly:
            self._show_plan(terminalreporter)
        if self._outcome is None:
            return
        outcome = self._outcome
        terminalreporter.section("proof pack")
        for line in verdict_table(outcome.verdict, width=terminalreporter._tw.fullwidth):
            terminalreporter.line(line)
        terminalreporter.line("")
        color = {"green": True} if outcome.passed else {"red": True}
        terminalreporter.line(f"verdict: {outcome.verdict['verdict']}", bold=True, **color)
        for line in _failed_requirements(outcome.verdict):
            terminalreporter.line(f"  {line}")
        trusted = [model.id for model in self._run.models if model.trust_remote_code]
        if trusted:
            terminalreporter.line(f"ran code that came with the model (trust_remote_code): {', '.join(trusted)}")
        for skipped in outcome.verdict["skipped"]:
            text = f"skipped: {skipped['scenario']} of {skipped['model']}: {skipped['reason']}"
            terminalreporter.line(printable(text))
        if outcome.problem is not None:
            terminalreporter.line(f"no pack: {outcome.problem}", red=True)
        elif outcome.pack is not None:
            path = _shown(outcome.pack.directory)
            signing = outcome.pack.signing
            terminalreporter.line(f"pack: {path}")
            terminalreporter.line(
                f"signed by {signing.fingerprint}" if signing.fingerprint else f"unsigned: {signing.reason}"
            )
            terminalreporter.line(f"verify it with: proofpack-verify {path}")
        terminalreporter.line(f"certificates and reports: {_shown(self._run.out)}")
        if self._run.settings.net:
            revisions = _shown(self._run.out / STATE / "model_revisions.json")
            terminalreporter.line(f"rerun it offline with: --proofpack-revisions={revisions}")

    def _show_plan(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what is known of the models, after the ids that pytest collected."""
        from pytest_proofpack.model_shapes import memory_text
        from pytest_proofpack.planning import plan_lines

        terminalreporter.section(f"models of suite {self._run.suite.name}")
        for line in plan_lines(self._run, partial(memory_text, self._run)):
            terminalreporter.line(printable(line))

    def _finish(self, *, build_pack: bool) -> Outcome:
        self._directory.write_presets()
        verdict = self._directory.write_verdict()
        if self._run.pack_dir is None:
            return Outcome(verdict)
        if not build_pack:
            return Outcome(verdict, problem="the session was interrupted")
        try:
            return Outcome(verdict, _write_pack(self._run, self._run.pack_dir))
        except ProofPackError as error:
            return Outcome(verdict, problem=str(error))

    def _report_verdict(self) -> None:
        """Send the verdict through pytest as one more item, so that failures and JUnit show it."""
        outcome = self._outcome
        assert outcome is not None
        properties: list[tuple[str, object]] = [
            ("proofpack_verdict", outcome.verdict["verdict"]),
            ("proofpack_suite", self._run.suite.name),
        ]
        if outcome.pack is not None:
            properties.append(("proofpack_manifest_sha256", outcome.pack.manifest_sha256))
        _add_suite_properties(self._config, properties)
        nodeid = f"proofpack/{self._run.suite.name}::verdict"
        location = (nodeid.partition("::")[0], None, "verdict")
        self._config.hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
        now = time.time()
        for when in ("setup", "call", "teardown"):
            failed = when == "call" and not outcome.passed
            self._config.hook.pytest_runtest_logreport(
                report=pytest.TestReport(
                    nodeid=nodeid,
                    location=location,
                    keywords={},
                    outcome="failed" if failed else "passed",
                    longrepr=_why(outcome) if failed else None,
                    when=when,
                    user_properties=properties,
                    start=now,
                    stop=now,
                )
            )
        self._config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)


def _failed_requirements(verdict: JsonObject) -> list[str]:
    """Return one line per requirement that is not met, with how often it is not."""
    counts = Counter(f"{entry['requirement']}: {entry['message']}" for entry in verdict["failed_requirements"])
    return [line if count == 1 else f"{line} ({count} times)" for line, count in counts.items()]


def _why(outcome: Outcome) -> str:
    lines = [f"verdict: {outcome.verdict['verdict']}", *_failed_requirements(outcome.verdict)]
    if outcome.problem is not None:
        lines.append(f"no pack: {outcome.problem}")
    return "\n".join(lines)


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


def _write_pack(run: Run, target: Path) -> PackResult:
    from pytest_proofpack.pack.sign import SigningMode
    from pytest_proofpack.pack.write import PackRequest, write_pack

    settings = run.settings
    return write_pack(
        PackRequest(
            run_directory=run.out,
            target=target,
            layout=settings.layout,
            sign=SigningMode(settings.sign),
            gpg_key=settings.gpg_key,
            html=not settings.no_html,
            network_mode=network_mode(run),
            determinism=settings.determinism,
        )
    )


def _shown(path: Path) -> str:
    """Return a path as a person in the current directory would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
