"""The step that holds the certificates of a pack against each other, and its presets against its calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from pytest_proofpack.certificate.agreement import disagreements
from pytest_proofpack.certificate.presets import SCHEMA, preset_findings
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.pack.steps import StepOutcome, Structure


def check_agreement(structure: Structure) -> StepOutcome:
    """Name what in one certificate contradicts another, or a preset its calibration certificates."""
    if structure.manifest is None:
        return StepOutcome(note="there is no evidence to compare")
    certificates = structure.certificate_documents
    findings = [*disagreements(certificates), *_preset_findings(structure)]
    return StepOutcome(tuple(findings), note=f"{len(certificates)} certificates")


def _preset_findings(structure: Structure) -> Iterator[str]:
    folder = f"{structure.layout.state}/presets/"
    calibrations: dict[str, list[JsonObject]] = defaultdict(list)
    for certificate in structure.certificate_documents.values():
        if certificate["scenario"]["category"] == "calibration":
            calibrations[certificate["meta"]["model_id"]].append(certificate)
    known: dict[str, str] = {}
    for path, document in structure.documents.items():
        if not path.startswith(folder):
            continue
        wrong = schema_findings("preset", document)
        if document.get("schema") != SCHEMA or wrong:
            yield from (f"{path}: {finding}" for finding in wrong or [f"is no {SCHEMA}"])
            continue
        model = document["model_id"]
        if known.setdefault(model, path) != path:
            yield f"{path}: model_id: {known[model]} is of the same model"
            continue
        yield from (f"{path}: {finding}" for finding in preset_findings(document, calibrations.get(model, [])))
