"""How a run ends: verdict, summary of the repeats, pack, and what people are told of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pytest_proofpack.certificate.repeats import describe, drift_problem
from pytest_proofpack.certificate.verdict import COVERAGE, row_key
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable, shown
from pytest_proofpack.config.ci_facts import facts_of
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ProofPackError
from pytest_proofpack.guards.baseline_quality import BASELINE_QUALITY_GUARD
from pytest_proofpack.pack.attest import AttestRequest, open_attestor
from pytest_proofpack.pack.replace import replace_pack
from pytest_proofpack.pack.sign import check_signing
from pytest_proofpack.pack.write import PackRequest, PackResult, write_pack
from pytest_proofpack.plan.byoe import unedited_subjects
from pytest_proofpack.report import model_lines, reasons, verdict_table, warned
from pytest_proofpack.report.formatting import unique
from pytest_proofpack.runs.claim import require_there
from pytest_proofpack.runs.directory import RunDirectory
from pytest_proofpack.runs.run import Run

_UNEDITED = (
    "its files are the baseline's, byte for byte, so nothing is said of an edit. Check its path, and that it was saved"
)
_WEAK_BASELINE = "the baseline itself hardly predicts this text, so its ratios say little (baseline_quality)"


class Line(NamedTuple):
    """A line for a terminal; ``good`` is None where it is neither good news nor bad; ``command``: ends with one."""

    text: str
    good: bool | None = None
    bold: bool = False
    command: bool = False


@dataclass(frozen=True)
class SessionResult:
    """How a session ended.

    Attributes:
        verdict: the verdict.
        repeats: the summary of the repeats; None if none were asked for.
        pack: the pack, if there is one.
        problem: why there is no pack though one was wanted.
        unwritten: why the run directory does not hold how the run ended; then there is no pack either.
        untried: whether every item that was run left its certificate, so that what is missing was left out.
    """

    verdict: JsonObject
    repeats: JsonObject | None
    pack: PackResult | None = None
    problem: str | None = None
    unwritten: str | None = None
    untried: bool = False

    @property
    def word(self) -> str:
        """The verdict for people: INCOMPLETE where all that is wrong is that certificates were not made."""
        wrong = {entry["requirement"] for entry in self.verdict["failed_requirements"]}
        if self.untried and wrong == {COVERAGE}:
            return "INCOMPLETE"
        return str(self.verdict["verdict"])

    @property
    def proved(self) -> bool:
        """Whether the verdict is PASS and written, and the pack there if it was wanted."""
        return self.verdict["verdict"] == "PASS" and self.failure is None

    @property
    def failure(self) -> str | None:
        """What failed besides the verdict, in one line."""
        if self.unwritten is not None:
            return f"not written: {self.unwritten}"
        return None if self.problem is None else f"no pack: {self.problem}"

    @property
    def drift(self) -> str | None:
        """What is wrong with the repeats."""
        return None if self.repeats is None else drift_problem(self.repeats)

    @property
    def complete(self) -> bool:
        """Whether every certificate is there, and the pack if it was wanted."""
        return self.failure is None and not self.verdict["missing"]

    @property
    def why(self) -> str:
        """Why the run did not prove what it was to."""
        why = reasons(self.verdict)
        below = [line.strip() for line in why if line.startswith(" ")]
        first = f": {below[0]}" + (f" (and {len(below) - 1} more)" if below[1:] else "") if below else ""
        lines = [f"verdict: {self.word}{first}", *why]
        if self.failure is not None:  # first where nothing else has failed: pytest's summary shows one line
            lines.insert(0 if self.verdict["verdict"] == "PASS" else len(lines), self.failure)
        return "\n".join(lines)


def check_sealing(run: Run, network_mode: str) -> None:
    """Fail before the work, not after it, if a signature or an attestation is demanded and cannot be made.

    Raises:
        ConfigurationError, PackError: it cannot.
    """
    if run.pack_dir is not None:
        check_signing(run.settings.sign, run.settings.gpg_key)
        open_attestor(_attesting(run.settings), network_mode)


def _attesting(settings: Settings) -> AttestRequest:
    return AttestRequest(settings.attest, settings.attest_key, settings.attest_trust_config)


@dataclass(frozen=True)
class ShardResult:
    """How a session ended that makes a shard of a run.

    Attributes:
        judged: what its certificates mean, as in a verdict, and which of its own are missing; it is no verdict.
        outdated: how many lie there that are not valid any more and were not made again.
        repeats: the summary of the repeats; None if none were asked for.
        unwritten: why the run directory does not hold how the session ended.
    """

    judged: JsonObject
    outdated: int
    repeats: JsonObject | None
    unwritten: str | None = None

    @property
    def missing(self) -> int:
        """How many of its own certificates are not there."""
        return len(self.judged["missing"])

    @property
    def drift(self) -> str | None:
        """What is wrong with the repeats."""
        return None if self.repeats is None else drift_problem(self.repeats)

    @property
    def failure(self) -> str | None:
        """What failed besides certificates, in one line."""
        if self.unwritten is not None:
            return f"not written: {self.unwritten}"
        return f"{self.outdated} certificates are not valid any more and were not made again" if self.outdated else None

    @property
    def good(self) -> bool:
        """Whether every certificate of its own is there and as its scenario demands, and nothing else failed."""
        as_expected = all(row["as_expected"] for row in self.judged["certificates"])
        return as_expected and not self.missing and self.failure is None and self.drift is None

    def describe(self) -> str:
        """Return in one line how many certificates there are, and how many are as expected."""
        rows = self.judged["certificates"]
        good = sum(row["as_expected"] for row in rows)
        return f"{len(rows)} of {len(rows) + self.missing} certificates are there, {good} of them as expected"


def finish_shard(run: Run, directory: RunDirectory) -> ShardResult:
    """Look at what a shard's session leaves in its directory, and write the summary of its repeats."""
    verdict = directory.verdict()
    own = {(request.model.id, request.scenario.id, request.run) for request in run.requests}
    missing = [entry for entry in verdict["missing"] if row_key(entry) in own]
    result = ShardResult({**verdict, "missing": missing}, directory.disregarded, directory.repeats())
    try:
        require_there(run.out)
        directory.write_repeats(result.repeats)
    except OSError as error:
        return replace(result, unwritten=str(error))
    return result


def finish(run: Run, directory: RunDirectory, *, interrupted: bool, replaces_pack: bool) -> SessionResult:
    """Write what a run ends with into its directory, and the pack.

    Args:
        run: the run.
        directory: its directory, with the certificates that there are.
        interrupted: whether the session was stopped early; then there is no pack.
        replaces_pack: whether an older pack of the same run lies where the pack goes.
    """
    result = SessionResult(directory.verdict(), directory.repeats())
    try:
        require_there(run.out)
        directory.write_presets()
        directory.write_verdict(result.verdict)
        directory.write_repeats(result.repeats)
    except OSError as error:
        return replace(result, unwritten=str(error))
    if run.pack_dir is None:
        return result
    if interrupted:
        if directory.ahead is not None:
            directory.ahead.stop()
        return replace(result, problem="the session was interrupted")
    if directory.disregarded:
        problem = f"{directory.disregarded} certificates are not valid any more and were not made again"
        return replace(result, problem=problem)
    write = partial(_write_pack, run, directory)
    try:
        pack = replace_pack(write, run.pack_dir, run.suite.name) if replaces_pack else write(run.pack_dir)
    except ProofPackError as error:
        return replace(result, problem=str(error))
    return replace(result, pack=pack)


def summary(run: Run, result: SessionResult, width: int, *, brief: bool = False) -> Iterator[Line]:
    """Yield the table, the verdict, and where the pack is and how to verify it.

    Args:
        run: the run.
        result: how it ended.
        width: columns of the terminal.
        brief: a line per model in place of the table.
    """
    if brief:
        yield from map(Line, model_lines(result.verdict))
    else:
        yield from map(Line, verdict_table(result.verdict, width=width))
        yield Line("")
    yield Line(f"verdict: {result.word}", good=result.proved, bold=True)
    for line in reasons(result.verdict):
        yield Line(f"  {line}")
    yield Line(f"judged by: {run.judged_by}")
    if run.own_limits:
        yield Line(run.own_limits)
    yield from _warnings(run, result.verdict)
    trusted = [model.id for model in run.models if model.trust_remote_code]
    if trusted:
        yield Line(f"ran code that came with the model (trust_remote_code): {', '.join(trusted)}")
    for skipped in result.verdict["skipped"]:
        yield Line(printable(f"skipped: {skipped['scenario']} of {skipped['model']}: {skipped['reason']}"))
    if result.repeats is not None:
        yield Line(printable(describe(result.repeats)), good=None if result.drift is None else False)
    if result.failure is not None:
        yield Line(result.failure, good=False)
    elif result.pack is not None:
        path, signing = shown(result.pack.directory), result.pack.signing
        yield Line(f"pack: {path}")
        yield Line(f"signed by {signing.fingerprint}" if signing.fingerprint else f"unsigned: {signing.reason}")
        if result.pack.attester is not None:
            yield Line(printable(f"attested by {result.pack.attester}"))
        yield Line(f"verify it with: proofpack verify {path}", command=True)
    yield Line(f"certificates and reports: {shown(run.out)}")


def _warnings(run: Run, verdict: JsonObject) -> Iterator[Line]:
    for model in _weak_baselines(verdict):
        yield Line(printable(f"warning: {model}: {_WEAK_BASELINE}"), good=False)
    for scenario in unedited_subjects(run.suite.scenarios):
        yield Line(printable(f"warning: {scenario}: {_UNEDITED}"), good=False)
    for line in warned(verdict):
        yield Line(f"with a warning: {line}")


def _weak_baselines(verdict: JsonObject) -> list[str]:
    """Return the models that hardly predict the text they were measured on, edited or not."""
    name, gate = BASELINE_QUALITY_GUARD.name, BASELINE_QUALITY_GUARD.gates[0].flag
    rows = verdict["certificates"]
    return unique(row["model"] for row in rows if name in row["warnings"] or gate in row["failed_gates"])


def _write_pack(run: Run, directory: RunDirectory, target: Path) -> PackResult:
    settings = run.settings
    return write_pack(
        PackRequest(
            run_directory=run.out,
            target=target,
            layout=settings.layout,
            sign=settings.sign,
            gpg_key=settings.gpg_key,
            attest=_attesting(settings),
            html=not settings.no_html,
            network_mode=directory.network_mode,
            determinism=settings.determinism,
            meta=facts_of(settings.meta),
        ),
        ahead=directory.ahead,
    )
