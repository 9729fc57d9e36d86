"""The step that parses: JSON documents that the manifest lists, strictly, within budgets, against their schemas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from pytest_proofpack.certificate.formats import FORMATS, format_of
from pytest_proofpack.certificate.metric import resamples
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, count_values, parse_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack import layout as where
from pytest_proofpack.pack.steps import Opened, StepOutcome, Structure
from pytest_proofpack.pack.unbound import foreign_documents


def check_structure(opened: Opened) -> tuple[StepOutcome, Structure | None]:
    """Parse the documents; files that the manifest does not list are left alone."""
    paths = sorted(path for path in opened.snapshot.contents if path.endswith(".json") and path in opened.listed)
    certificates = tuple(path for path in paths if where.is_certificate(path))
    if not certificates:
        return StepOutcome(("there is no certificate in this pack, so it proves nothing",)), None
    values = sum(count_values(opened.snapshot.contents[path]) for path in paths)
    if values > (limit := BUDGETS.all_json_values(len(certificates))):
        excess = f"the documents hold {values} values, more than the {limit} allowed"
        return StepOutcome((excess,)), None
    documents = {where.MANIFEST: opened.document}
    findings = _read(opened, paths, documents)
    if not findings:
        found = foreign_documents(documents) if opened.manifest is None else _agreement(opened, documents, certificates)
        findings = list(found)
    if findings:
        return StepOutcome(tuple(findings)), None
    note = f"{len(documents)} documents"
    return StepOutcome(note=note), Structure(opened, documents, certificates)


def _read(opened: Opened, paths: list[str], documents: dict[str, JsonObject]) -> list[str]:
    """Parse documents into ``documents``; after some that are bad no more are looked at."""
    schemas: dict[str, str] = {}
    if opened.manifest is not None:
        schemas = {path: schema for schema, path in opened.layout.schemas.items()}
        schemas[opened.layout.scenarios] = FORMATS[opened.document["schema_version"]].scenarios
    findings: list[str] = []
    bad = 0
    for path in paths:
        wrong = list(_read_one(opened, path, schemas.get(path), documents))
        findings += wrong
        bad += bool(wrong)
        if bad == BUDGETS.bad_documents:
            return [*findings, "no more documents were looked at"]
    return findings


def _read_one(opened: Opened, path: str, schema: str | None, documents: dict[str, JsonObject]) -> Iterator[str]:
    data = opened.snapshot.contents[path]
    try:
        document = parse_json(data, path, max_bytes=BUDGETS.document_bytes, max_values=BUDGETS.json_values)
    except FormatError as error:
        yield str(error)
        return
    documents[path] = document
    if schema is not None:
        yield from (f"{path}: {finding}" for finding in schema_findings(schema, document))
    elif opened.manifest is not None and where.is_certificate(path):
        yield from (f"{path}: {finding}" for finding in certificate_findings(document))


def _agreement(opened: Opened, documents: Mapping[str, JsonObject], certificates: tuple[str, ...]) -> list[str]:
    """Name what documents that fit their schemas cannot be together."""
    chosen = {path: documents[path] for path in certificates}
    scenarios = opened.layout.scenarios
    return (
        _format_findings(opened.document["schema_version"], chosen)
        or plan_findings(documents.get(scenarios), scenarios)
        or subject_findings(documents[scenarios], scenarios)
        or resample_findings(chosen)
    )


def _format_findings(number: int, certificates: Mapping[str, JsonObject]) -> list[str]:
    """Refuse certificates of another format than the pack's.

    One verdict counts them all, and a detector's flag has to mean the same in each: ``rmt_stable`` of format 1 does not
    mean what it means in format 2. No version of this package has ever written a mixed pack.
    """
    return [
        f"{path}: is of format {form.number}, manifest.json says that the pack is of format {number}"
        for path, certificate in certificates.items()
        if (form := format_of(certificate)).number != number
    ]


def plan_findings(scenarios: JsonObject | None, path: str) -> list[str]:
    """Name what is wrong with the plan of a scenarios document that fits its schema; ``path`` is its name."""
    if scenarios is None:
        return [f"{path}: missing, so nothing says which certificates there ought to be"]
    if "plan" not in scenarios:
        return [f"{path}: holds no plan, so nothing says which models and runs there ought to be"]
    ids = [entry["id"] for entry in scenarios["scenarios"]]
    repeated = sorted(name for name, count in Counter(ids).items() if count > 1 or name == "calibration")
    findings = [f"{path}: the scenario id {name!r} stands there twice, or is reserved" for name in repeated]
    plan = scenarios["plan"]
    if len(plan["models"]) * (len(ids) + 1) * max(plan["runs"].values()) > BUDGETS.planned:
        findings.append(f"{path}: plans more than {BUDGETS.planned} certificates")
    return findings


def subject_findings(scenarios: JsonObject, path: str) -> list[str]:
    """Refuse edited models whose files nobody has read: only a shard of a run knows such."""
    entries = [entry for entry in scenarios["scenarios"] if entry["generation"]["kind"] == "byoe"]
    unread = [entry["id"] for entry in entries if entry["generation"]["digest"] is None]
    return [f"{path}: the edited model of {name!r} has no digest" for name in unread]


def resample_findings(certificates: Mapping[str, JsonObject]) -> list[str]:
    """Refuse bootstraps that are too costly, of one certificate or of all together."""
    findings, total = [], 0
    for path, certificate in certificates.items():
        windows = len(certificate["evaluation_windows"]["final"]["window_ids"])
        replicates = certificate["dataset"]["windows"]["stats"]["bootstrap"]["replicates"]
        total += resamples(windows, replicates)
        if resamples(windows, replicates) > BUDGETS.resamples:
            asked = f"{replicates} resamples of {windows} windows"
            findings.append(f"{path}: asks for {asked}, more than verification allows")
    if not findings and total > BUDGETS.all_resamples(len(certificates)):
        findings.append(f"the certificates ask for resamples of {total} windows, more than verification allows")
    return findings
