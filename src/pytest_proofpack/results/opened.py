"""Reading a result, whatever it is: a pack, a run directory, or a single certificate. Verified first, then read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_proofpack.certificate.agreement import disagreements
from pytest_proofpack.certificate.formats import Format, format_of
from pytest_proofpack.certificate.older import format_words
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.certificate.verdict import assess, certificate_key, compute_verdict
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.nonsense import making_sense
from pytest_proofpack.common.reading import read_regular
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import first_of, printable, shortened
from pytest_proofpack.errors import ConfigurationError, FormatError, VerificationError
from pytest_proofpack.pack.check_certificates import recompute_any
from pytest_proofpack.pack.check_edits import check_edits
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.layout import MANIFEST, V1
from pytest_proofpack.pack.public import load_pack
from pytest_proofpack.pack.run_files import RunFiles, parse_document, read_document, read_run
from pytest_proofpack.pack.terms.term import DemandResult
from pytest_proofpack.pack.verified import EditFacts, Verified, edits_of
from pytest_proofpack.pack.verify import PackVerifier, VerificationReport
from pytest_proofpack.plan.expected import expected_certificates
from pytest_proofpack.plan.records import Category, Scenario, Strictness

PACK, RUN, CERTIFICATE = "pack", "run directory", "certificate"
_SCENARIOS = V1.scenarios
_STARTED = "state/run.json"
_SHOWN = 3
_LONGEST = 300
_ALONE = {Category.STRESS: Strictness.INFORMATIONAL, Category.ERROR: Strictness.INFORMATIONAL}
"""What is demanded of a certificate that comes alone, without the scenarios that say it: of all others, to pass."""


@dataclass(frozen=True)
class Results:
    """A result that was read.

    Attributes:
        name: as the user named it, printable.
        kind: :data:`PACK`, :data:`RUN` or :data:`CERTIFICATE`.
        verified: whether everything in it holds; if not, nothing of it may be shown without saying so.
        standing: how it was checked and what came of it, in a sentence without its full stop; printable.
        certificates: all of them, in their own order; at least one.
        rows: a row of the verdict for each.
        verdict: ``PASS`` or ``FAIL``, recomputed; None of a certificate that comes alone.
        time: when it was made, as its maker says (UTC, ``2026-01-31T12:00:00Z``); None if nobody says it.
        manifest: of a pack, its manifest; else empty.
        facts: what a verified pack says; else None.
        unmet: demands that are not met.
        scenarios: the scenarios document with its plan; empty where none is known.
    """

    name: str
    kind: str
    verified: bool
    standing: str
    certificates: tuple[JsonObject, ...]
    rows: tuple[JsonObject, ...]
    verdict: str | None = None
    time: str | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    facts: Verified | None = None
    unmet: tuple[DemandResult, ...] = ()
    scenarios: Mapping[str, Any] = field(default_factory=dict)

    @property
    def heading(self) -> JsonObject:
        """What it is and how it stands, as every JSON of it says first."""
        told = {key: getattr(self, key) for key in ("name", "kind", "verified", "standing", "verdict", "time")}
        return {**told, "certificate_format": self.format.number}

    @property
    def format(self) -> Format:
        """The format of its certificates; the oldest, where what was not verified has several."""
        return min(map(format_of, self.certificates), key=lambda form: form.number)

    @property
    def caution(self) -> tuple[str, ...]:
        """That its certificates are of an older format, which lacks gates; nothing, if of one that lacks nothing."""
        older = format_words(self.format)
        return (f"of {older}",) if older else ()

    @property
    def missing(self) -> int:
        """How many certificates the plan expects besides; 0 where no plan is known."""
        return len(expected_certificates(dict(self.scenarios))) - len(self.rows) if self.scenarios else 0

    @property
    def edits(self) -> tuple[EditFacts, ...]:
        """Every scenario of every model by its worst run, in the order of the plan."""
        return tuple(edits_of(self.rows, self.certificates))

    @property
    def groups(self) -> dict[tuple[str, str], list[JsonObject]]:
        """The certificates by model and scenario, each group in the order of its runs."""
        groups: dict[tuple[str, str], list[JsonObject]] = {}
        for certificate in sorted(self.certificates, key=lambda one: int(one["scenario"]["run"])):
            model, scenario, _ = certificate_key(certificate)
            groups.setdefault((model, scenario), []).append(certificate)
        return groups


def open_results(path: Path, demands: Demands | None = None, *, accept_unverified: bool = False) -> Results:
    """Read a pack, a run directory or a certificate, once everything in it has been recomputed.

    Args:
        path: what to read.
        demands: what is demanded of it; of packs only.
        accept_unverified: read what does not hold, too, as far as it fits its format.

    Raises:
        ConfigurationError: there is no such thing, or something is demanded that only a pack can meet.
        VerificationError: it does not hold, or there is far more than in any pack.
        FormatError: it cannot even be read.
    """
    with making_sense(f"{path}: "):
        return _opened(path, demands or Demands(), accept_unverified)


def _opened(path: Path, demands: Demands, accept_unverified: bool) -> Results:
    if path.is_dir() and (path / MANIFEST).is_file():
        return _pack(path, demands, accept_unverified)
    if demands.signed or demands.stated or demands.attesters.demanded:
        raise ConfigurationError(f"{path}: is no pack, and what is demanded only a pack can meet. Leave it out.")
    if path.is_dir() and (path / _SCENARIOS).is_file():
        return _run(path, demands, accept_unverified)
    if path.is_file():
        return _certificate(path, demands, accept_unverified)
    if path.is_dir():
        raise ConfigurationError(f"{path}: is neither a pack (no {MANIFEST}) nor a run's directory (no {_SCENARIOS}).")
    raise ConfigurationError(f"{path}: there is no such pack, run directory or certificate.")


def _pack(path: Path, demands: Demands, accept_unverified: bool) -> Results:
    verifier = PackVerifier(path, demands)
    report, structure = verifier.report(), verifier.structure
    if structure is None:
        return _unverified_pack(path, report, accept_unverified)
    if structure.manifest is None:
        raise FormatError(f"{path}: a pack of InvarLock 0.3.7 holds no losses, so there is nothing to work with.")
    return Results(
        name=printable(str(path)),
        kind=PACK,
        verified=True,
        standing=f"verified; {report.signer}",
        certificates=tuple(structure.certificate_documents.values()),
        rows=tuple(structure.documents[structure.layout.verdict]["certificates"]),
        verdict=report.verdict,
        time=structure.manifest.generated_at,
        manifest=structure.documents[MANIFEST],
        facts=report.facts,
        unmet=report.unmet,
        scenarios=structure.scenarios,
    )


def _unverified_pack(path: Path, report: VerificationReport, accepted: bool) -> Results:
    findings = [finding for step in report.steps for finding in step.findings]
    why = _refused(path, findings, accepted, f"Look at it with: proofpack verify {path}")
    pack = load_pack(path)
    documents = tuple(dict(certificate.document) for certificate in pack.certificates)
    return Results(
        name=printable(str(path)),
        kind=PACK,
        verified=False,
        standing=why,
        certificates=documents,
        rows=tuple(map(row_alone, documents)),
        verdict=None,
        time=pack.manifest["generated_at"],
        manifest=pack.manifest,
        unmet=report.unmet,
    )


def _run(path: Path, demands: Demands, accept_unverified: bool) -> Results:
    run = read_run(path)
    found = run.certificate_documents
    problems = _problems(run, demands)
    verdict = compute_verdict(run.scenarios, found.values())
    why = _refused(path, problems, accept_unverified) if problems else None
    count = len(verdict["missing"])
    missing = f", {count} {'is' if count == 1 else 'are'} missing" if count else ""
    return Results(
        name=printable(str(path)),
        kind=RUN,
        verified=why is None,
        standing=why or f"every certificate recomputed{missing}; a run's directory is signed by nobody",
        certificates=tuple(found.values()),
        rows=tuple(verdict["certificates"]),
        verdict=verdict["verdict"],
        time=_started(path),
        scenarios=run.scenarios,
    )


def _problems(run: RunFiles, demands: Demands) -> list[str]:
    """Return what does not hold of a run: of a certificate by itself; of all if each holds, and of their edits."""
    problems = []
    for path, certificate in run.certificate_documents.items():
        findings = recompute_any(certificate, allow_unknown_guards=demands.allow_unknown_guards)
        if not findings and certificate_key(certificate) != run.keys[path]:
            findings = ["is of another model, scenario or run than its folder"]
        problems += [f"{path}: {finding}" for finding in findings]
    return problems or [*disagreements(run.certificate_documents), *check_edits(run).findings]


def _certificate(path: Path, demands: Demands, accept_unverified: bool) -> Results:
    certificate = _document(path)
    findings = _findings(path, certificate, demands)
    why = _refused(path, findings, accept_unverified) if findings else None
    return Results(
        name=printable(str(path)),
        kind=CERTIFICATE,
        verified=why is None,
        standing=why or "recomputed; a single certificate is signed by nobody",
        certificates=(certificate,),
        rows=(row_alone(certificate),),
    )


def _document(path: Path) -> JsonObject:
    """Read a JSON document that a user names within the budgets of a pack's.

    Raises:
        FormatError: it cannot be read, or is none.
    """
    try:
        data = read_regular(path, BUDGETS.document_bytes)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_document(data, path)


def _findings(path: Path, certificate: JsonObject, demands: Demands) -> list[str]:
    """Return what does not hold of a certificate.

    Raises:
        FormatError: it does not even fit its schema.
    """
    if unfit := certificate_findings(certificate):
        raise FormatError(f"{path}: is no certificate: {printable(unfit[0])}")
    return recompute_any(certificate, allow_unknown_guards=demands.allow_unknown_guards)


def _refused(path: Path, findings: list[str], accepted: bool, advice: str = "") -> str:
    """Return how to say that something does not hold.

    Raises:
        VerificationError: nobody accepts that.
    """
    shown = first_of([printable(shortened(finding, _LONGEST)).rstrip(".") for finding in findings], _SHOWN, "; ")
    if not accepted:
        raise VerificationError(f"{printable(str(path))}: {shown}. {advice}".rstrip())
    return f"NOT VERIFIED, {len(findings)} finding{'' if len(findings) == 1 else 's'}: {shown}"


def row_alone(certificate: JsonObject) -> JsonObject:
    """Return the row of the verdict for a certificate whose scenarios are not known, or not to be trusted."""
    model, scenario, run = certificate_key(certificate)
    category = Category(certificate["scenario"]["category"])
    strictness = _ALONE.get(category, Strictness.MUST_PASS)
    outcome, metric = certificate["outcome"], certificate["primary_metric"]
    measured = {"ratio_vs_baseline": "ratio", "display_ci": "interval"}
    return {
        "model": model,
        "scenario": scenario,
        "category": category.value,
        "strictness": strictness.value,
        "run": run,
        **{key: outcome[key] for key in ("passed", "failed_gates", "warnings", "signals")},
        "as_expected": assess(certificate, Scenario(scenario, category, strictness)).as_expected,
        **{name: metric[key] for key, name in measured.items() if key in metric},
    }


def _started(path: Path) -> str | None:
    """Return when a run was begun, as its state says."""
    try:
        started = read_document(path, _STARTED).get("started_at")
    except FormatError:
        return None
    return printable(started) if isinstance(started, str) else None
