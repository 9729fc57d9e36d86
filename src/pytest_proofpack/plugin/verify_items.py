"""``pytest --proofpack-verify=DIR``: every step of a pack's verification as an item.

Nothing of DIR is collected, imported or used as configuration: the items come from a verifier that reads files. For a
pack from a stranger ``proofpack verify DIR`` is the safer form all the same: pytest itself obeys the ini file of the
directory that it is started in before any plugin is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.strict_json import pretty_json
from pytest_proofpack.common.words import printable, shown
from pytest_proofpack.config.options import OPTIONS
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ConfigurationError, StorageError, VerificationError
from pytest_proofpack.pack.policy import demands_of
from pytest_proofpack.pack.terms import Stated
from pytest_proofpack.pack.verify import SIGNATURE, PackVerifier, Status, VerificationReport
from pytest_proofpack.plugin.terminal import tell, untyped_words, wrapped
from pytest_proofpack.runs.paths import pack_within

ANCHOR = Path(__file__).resolve().parents[1] / "data" / "manifest.schema.json"
"""The file that pytest is told to collect; any file of ours that is not Python would do."""


class VerificationItem(pytest.Item):
    """One step of a verification."""

    def __init__(self, name: str, parent: pytest.Collector, verifier: PackVerifier) -> None:
        super().__init__(name, parent)
        self._verifier = verifier

    def runtest(self) -> None:
        """Run the step; what it finds is the failure, whole and without a traceback."""
        result = self._verifier.run(self.name)
        for warning in result.warnings:
            self.add_report_section("call", "warning", printable(warning))
        if result.status is Status.NOT_REACHED:
            self.fail(result.note)
        if result.status is Status.FAILED:
            self.fail(*result.findings)

    def fail(self, *lines: str) -> NoReturn:
        """Fail with these lines, whole and without a traceback."""
        pytest.fail("\n".join(part for line in lines for part in wrapped(self.config, line)), pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Tell where the item comes from."""
        return self.path, None, f"{self.parent.nodeid if self.parent else ''}::{self.name}"


class DemandItem(VerificationItem):
    """One demand on what the pack says."""

    def __init__(self, name: str, parent: pytest.Collector, verifier: PackVerifier, stated: Stated) -> None:
        super().__init__(name, parent, verifier)
        self._stated = stated

    def runtest(self) -> None:
        """Judge it; a demand that is not met is the failure."""
        result = self._verifier.judge(self._stated)
        if not result.met:
            self.fail(f"demanded: {result.demand}; {result.why}")


class VerificationFile(pytest.File):
    """Collects the steps and the demands; its node id does not depend on where the package is installed."""

    verifier: PackVerifier

    def collect(self) -> Iterator[pytest.Item]:
        """Return one item per step, in order, then one per demand; those on the signature are a step."""
        for step in self.verifier.steps:
            yield VerificationItem.from_parent(self, name=step, verifier=self.verifier)
        for stated in self.verifier.demands.stated:
            if stated.term.judge is not None:
                name = f"demand[{printable(stated.demand)}]"
                yield DemandItem.from_parent(self, name=name, verifier=self.verifier, stated=stated)


class VerificationItems:
    """The verification session: its items, its JSON result and its summary."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        """Read the pack.

        Raises:
            ConfigurationError: there is no such directory, a demand is not understood, or pytest was started inside
                of the pack, where it would obey a stranger's files.
        """
        self._unwritten: str | None = None
        directory = self._directory = Path(settings.verify or "").expanduser().absolute()
        _refuse_to_run_inside(config, directory.resolve())
        demands = demands_of(settings, "--proofpack-")
        self._settings = settings
        self._is_worker = hasattr(config, "workerinput")
        try:
            self._verifier = PackVerifier(directory, demands)
        except VerificationError as error:
            pytest.exit(printable(f"verification failed: {error}"), returncode=pytest.ExitCode.TESTS_FAILED)

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect the steps of the verification in place of the anchor."""
        if file_path != ANCHOR:
            return None
        collector: VerificationFile = VerificationFile.from_parent(parent, path=file_path, nodeid="proofpack/verify")
        collector.verifier = self._verifier
        return collector

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Say what was found out: the pack's verdict, who signed it, and every warning."""
        if config.option.collectonly:
            return
        report = self._verifier.report()
        terminalreporter.section("proof pack")
        if told := untyped_words(config, [option for option in OPTIONS if option.verifies]):
            tell(terminalreporter, told, fold=True, yellow=True)
        for step in report.steps:
            for warning in step.warnings if step.step != SIGNATURE else ():  # its line says the same
                tell(terminalreporter, f"warning: {step.step}: {warning}", fold=True, yellow=True)
        when = f", at {report.signed_at}" if report.signed_at else ""
        tell(terminalreporter, f"signature: {report.signer}{when}", fold=True)
        if report.attestation is not None:
            tell(terminalreporter, f"attestation: {report.attestation.sentence}", fold=True)
        tell(terminalreporter, f"verdict of the pack: {report.verdict or 'not reached'}")
        for part in report.not_covered:
            tell(terminalreporter, f"not covered: {part}", fold=True)
        for demand in report.unmet:
            tell(terminalreporter, f"demand not met: {demand.demand}: {demand.why}", fold=True, red=True)
        color = {"green": True} if report.accepted and not report.unbound else {"red": True}
        tell(terminalreporter, f"verification: {_result(report)}", bold=True, **color)
        if (pack := pack_within(self._directory)) is not None:
            tell(terminalreporter, f"this is no pack; there is one in it: {shown(pack)}")
        if self._unwritten is not None:
            tell(terminalreporter, self._unwritten, red=True)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the result as JSON, and never let a deselected step make a pack look verified."""
        if self._is_worker or session.config.option.collectonly:
            return
        report = self._verifier.report()
        if self._settings.json is not None:
            try:
                atomic_write(Path(self._settings.json).expanduser(), pretty_json(report.to_json()))
            except StorageError as error:
                self._unwritten = f"--proofpack-json: {error}"
        if session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            if not report.accepted:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
            elif self._unwritten is not None:
                session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _result(report: VerificationReport) -> str:
    if not report.ok:
        return "the pack does NOT prove what it claims"
    if report.unbound:
        return "accepted unbound, NOT verified: no signature binds a file of this pack, and nothing was recomputed"
    if report.unmet:
        return "everything that the pack claims holds, but it is not what was demanded"
    return "everything that the pack claims holds"


def _refuse_to_run_inside(config: pytest.Config, directory: Path) -> None:
    places = {
        "the current directory": config.invocation_params.dir,
        "pytest's root directory": config.rootpath,
        "pytest's ini file": config.inipath,
    }
    for name, place in places.items():
        if place is not None and place.resolve().is_relative_to(directory):
            raise ConfigurationError(
                f"{name} ({place}) lies inside of the pack, and pytest obeys the files there. Start it elsewhere, or "
                f"use: proofpack verify {directory}"
            )
