"""The last step of verification: the verdict, counted again from the certificates and the plan."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_proofpack.certificate.derive import differences
from pytest_proofpack.certificate.foreign import FOREIGN
from pytest_proofpack.certificate.repeats import drift_problem, repeats_findings, summary_key
from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.registry import GUARDS
from pytest_proofpack.pack.check_edits import check_edits
from pytest_proofpack.pack.manifest import TOOL, Manifest, extensions_of, pinned_facts
from pytest_proofpack.pack.steps import StepOutcome, Structure
from pytest_proofpack.report import verdict_text


def check_verdict(structure: Structure) -> tuple[StepOutcome, str | None]:
    """Recompute the verdict and compare it with every place that states it.

    Returns:
        The outcome, and the verdict: recomputed, or None where a pack without evidence leaves nothing to recompute.
    """
    manifest = structure.manifest
    if manifest is None:
        claim = structure.documents.get(structure.layout.verdict, {}).get("verdict")
        caution = f"{structure.layout.verdict}: {claim!r} is what the pack's maker says; it cannot be recomputed"
        return StepOutcome(warnings=(caution,), note="not recomputed"), None
    try:
        found = compute_verdict(structure.scenarios, structure.certificate_documents.values(), structure.sha256)
        verdict = structure.format.verdict(found)
    except FormatError as error:
        return StepOutcome((f"{structure.layout.scenarios}: {error}",)), None
    edits = check_edits(structure)
    findings = [
        *_recorded_findings(structure, verdict),
        *_text_findings(structure, verdict),
        *_manifest_findings(structure, manifest, verdict["verdict"]),
        *edits.findings,
        *_dataset_findings(structure),
        *_repeats_findings(structure, manifest),
    ]
    made, total = len(structure.certificates), len(structure.expected)
    note = f"{verdict['verdict']}, from {made} of {total} expected certificates"
    return StepOutcome(tuple(findings), (*edits.warnings, *_repeats_warnings(structure)), note), verdict["verdict"]


def _recorded_findings(structure: Structure, verdict: JsonObject) -> list[str]:
    path = structure.layout.verdict
    recorded = structure.documents.get(path)
    if recorded is None:
        return [f"{path}: missing"]
    if compact_json(recorded) == compact_json(verdict):  # to Python, True equals 1
        return []
    named = [f"{path}: {finding}" for finding in differences(recorded, verdict)]
    return named or [f"{path}: holds something that the certificates do not give"]


def _text_findings(structure: Structure, verdict: JsonObject) -> list[str]:
    """Write the verdict's text again and compare it: its first line only, where the rest can be written otherwise.

    The layout of the text may change from version to version, and extensions' guards have letters in it.
    """
    path, tool = structure.layout.verdict_text, structure.opened.document["tool"]
    text = structure.snapshot.contents.get(path, b"")
    if text.partition(b"\n")[0].strip() != f"VERDICT: {verdict['verdict']}".encode():
        return [f"{path}: does not begin with VERDICT: {verdict['verdict']}"]
    plain = not (
        GUARDS.added or any(FOREIGN in certificate for certificate in structure.certificate_documents.values())
    )
    if tool == TOOL and plain and text != verdict_text(verdict).encode():
        return [f"{path}: is not the text that this verdict has"]
    return []


def _manifest_findings(structure: Structure, manifest: Manifest, verdict: str) -> Iterator[str]:
    plan, count = structure.scenarios["plan"], len(structure.certificates)
    summary = structure.documents.get(structure.layout.summary)
    repeats = structure.documents.get(structure.layout.repeats)
    known = pinned_facts(structure.documents.get(structure.layout.revisions, {}))
    claims: list[tuple[str, object, object]] = [
        ("verdict", manifest.verdict, verdict),
        ("suite", manifest.suite, plan["suite"]),
        ("extensions", list(manifest.extensions), list(extensions_of(structure.certificate_documents.values()))),
        ("model_list", list(manifest.model_list), plan["models"]),
        ("models", sorted(manifest.revisions), sorted(manifest.model_list)),
        ("verification.certificates_total", manifest.verification["certificates_total"], count),
        ("verification.certificates_verified", manifest.verification["certificates_verified"], count),
        ("verification.verdict_recomputed", manifest.verification["verdict_recomputed"], verdict),
        ("repeats", manifest.repeats, repeats["made"] if repeats is not None else 0),
        ("determinism_repeats", manifest.determinism_repeats, repeats),
        ("model_licenses", manifest.licenses, {model: known.get(model, {}).get("license") for model in plan["models"]}),
        *(
            (f"models: {model}", manifest.revisions.get(model), facts["revision"])
            for model, facts in known.items()
            if "revision" in facts
        ),
    ]
    for key, recorded, found in claims:
        if compact_json(recorded) != compact_json(found):
            yield f"manifest.json: {key}: recorded {recorded!r}, the pack gives {found!r}"
    if summary != manifest.verification:
        yield f"{structure.layout.summary}: is not what manifest.json says under verification"


def _repeats_findings(structure: Structure, manifest: Manifest) -> Iterator[str]:
    """Name what in the summary of the repeats contradicts itself, the pack's certificate or the manifest."""
    path = structure.layout.repeats
    summary = structure.documents.get(path)
    if summary is None:
        return
    if summary_key(summary) not in structure.expected:
        yield f"{path}: certificate: is none that the run expects"
    if summary["determinism_requested"] != manifest.determinism:
        yield f"{path}: determinism_requested: is not what manifest.json says under determinism"
    certificates = (structure.documents[certificate] for certificate in structure.certificates)
    for finding in repeats_findings(summary, certificates):
        yield f"{path}: {finding}"


def _repeats_warnings(structure: Structure) -> tuple[str, ...]:
    """Say it if the summary of the repeats tells that some are missing, or differ though determinism was strict."""
    summary = structure.documents.get(structure.layout.repeats)
    problem = drift_problem(summary) if summary is not None else None
    return (f"{structure.layout.repeats}: {problem.splitlines()[0]}",) if problem is not None else ()


def _dataset_findings(structure: Structure) -> Iterator[str]:
    """Name every certificate whose text is of another commit than the pinned one, or of another source than others."""
    pinned = pinned_facts(structure.documents.get(structure.layout.revisions, {}), "datasets")
    sources: dict[str, str] = {}
    for path in structure.certificates:
        source = structure.documents[path]["dataset"].get("source")
        sources.setdefault(compact_json(source), path)
        pin = pinned.get(source["dataset"]) if source is not None else None
        if pin is not None and pin.get("revision") != source["revision"]:
            recorded, known = source["revision"], pin.get("revision")
            yield f"{path}: dataset.source.revision: recorded {recorded!r}, {structure.layout.revisions}: {known!r}"
    for path in list(sources.values())[1:]:
        yield f"{path}: dataset.source: is not that of the other certificates"
