"""The steps that check an attestation: who made it, before anything else is parsed, and at last what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable, shortened
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack.attestations import FILE, AttestationReport, Attestor, attestor_of
from pytest_proofpack.pack.attestations.bundle import Bundle, parse_bundle
from pytest_proofpack.pack.attestations.statement import (
    form_findings,
    make_statement,
    parse_statement,
    statement_findings,
)
from pytest_proofpack.pack.attestations.trust import AttestTrust
from pytest_proofpack.pack.layout import MANIFEST, Layout
from pytest_proofpack.pack.snapshot import FileFacts, Snapshot
from pytest_proofpack.pack.steps import StepOutcome, Structure


@dataclass(frozen=True)
class Attested:
    """An attestation about this manifest.

    Attributes:
        report: who made it.
        statement: what it says; nothing but its form and the manifest's digest has been compared.
    """

    report: AttestationReport
    statement: JsonObject


def check_attestation(snapshot: Snapshot, trust: AttestTrust) -> tuple[StepOutcome, Attested | None]:
    """Check who attests the manifest."""
    if FILE not in snapshot.contents or MANIFEST not in snapshot.contents:
        return StepOutcome(("the pack has no attestation, and one is required",)), None
    try:
        bundle = parse_bundle(snapshot.contents[FILE])
        attestor = attestor_of(bundle)
        # Only a signature that holds makes it worth while to parse what is signed.
        report = _report(attestor, bundle, trust)
        if report.findings:
            return StepOutcome(report.findings), None
        statement = parse_statement(bundle.payload)
    except FormatError as error:
        return StepOutcome((str(error),)), None
    findings = tuple(form_findings(statement, snapshot.contents[MANIFEST]))
    caution = (
        () if report.pinned else (f"its signature was not checked; name whom you trust: {_HOW} ({attestor.needs})",)
    )
    return StepOutcome(findings, caution, report.sentence), None if findings else Attested(report, statement)


def _report(attestor: Attestor, bundle: Bundle, trust: AttestTrust) -> AttestationReport:
    if attestor.trusts_anybody(trust):
        return attestor.verify(bundle, trust)
    claimed = printable(shortened(attestor.claimed(bundle), _MAX_NAME))
    problem = f"attested by {claimed}, which is not one of those that are trusted"
    return AttestationReport(claimed, pinned=False, findings=(problem,) if trust.demanded else ())


_MAX_NAME = 300
_HOW = "--attest-key=PUBLIC.pem, or --attest-identity and --attest-issuer"


def check_statement(attested: Attested, structure: Structure) -> StepOutcome:
    """Compare what is attested with what the pack gives, which has been proved by now."""
    assert structure.manifest is not None
    documents, layout = structure.documents, structure.layout
    expected = make_statement(
        structure.snapshot.contents[MANIFEST],
        configuration_of(structure.manifest.digests, layout),
        documents[layout.verdict],
        structure.certificate_documents.values(),
    )
    findings = tuple(statement_findings(attested.statement, expected))
    return StepOutcome(findings, note=f"{len(expected['subject'])} subjects, {expected['predicate']['result']}")


def configuration_of(files: Mapping[str, FileFacts], layout: Layout) -> dict[str, str]:
    """Return the digests of what says what was to be tested: scenarios and parameters."""
    return {path: files[path].sha256 for path in (layout.scenarios, layout.tuned) if path in files}
