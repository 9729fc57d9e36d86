"""Scenarios: what is done to every model of a suite, and what the verdict demands of it (``scenarios.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_proofpack.common.schemas import require_schema
from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.common.words import shown
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.edit_kinds import FAULTS, NOOP
from pytest_proofpack.plan.edit_specs import parse_edit_spec
from pytest_proofpack.plan.records import Category, Scenario, Strictness, SubjectEdit

if TYPE_CHECKING:
    from pathlib import Path

CALIBRATION = Scenario("calibration", Category.CALIBRATION, Strictness.MUST_PASS, edit_spec=NOOP)
"""The null scenario: nothing is edited, so nothing may be found. It is always there and in no file."""
RUNS_OF: Mapping[Category, str] = {
    Category.CALIBRATION: "calibration",
    Category.CLEAN: "clean",
    Category.STRESS: "stress",
    Category.ERROR: "error",
    Category.BYOE: "clean",
}
"""Under which key a plan's ``runs`` say how often a scenario runs: a subject as often as a clean edit."""
RESERVED = (CALIBRATION.id, "errors")
"""Folders beside those of the edits: a scenario of such a name could share a certificate's folder with another."""


def read_scenarios(path: Path) -> JsonObject:
    """Read and check a scenarios file.

    Raises:
        ConfigurationError: it cannot be read, does not fit its schema, holds a scenario twice, an edit spec that is
            not understood, or an unknown fault. The message names the file and the key.
    """
    try:
        document = read_json(path, shown(path))
    except FormatError as error:
        raise ConfigurationError(f"{error}. Name a file in the format proof_pack_scenarios_v1.") from error
    require_schema("scenarios", document, shown(path))
    seen: set[str] = set(RESERVED)
    for index, entry in enumerate(document["scenarios"]):
        key = f"{shown(path)}: scenarios[{index}]"
        if entry["id"] in seen:
            raise ConfigurationError(f"{key}: the id {entry['id']!r} stands there twice, or is reserved")
        seen.add(entry["id"])
        if entry["category"] == Category.BYOE:
            raise ConfigurationError(f"{key}.category: a subject is named by --proofpack-subject, not in a file")
        if "error_type" in entry["generation"]:
            FAULTS.require(entry["generation"]["error_type"], f"{key}.generation.error_type")
        if "edit_spec" in entry["generation"]:
            try:
                parse_edit_spec(entry["generation"]["edit_spec"])
            except ConfigurationError as error:
                raise ConfigurationError(f"{key}.generation.edit_spec: {error}") from error
    document.pop("plan", None)
    return document


def parse_scenarios(document: JsonObject) -> list[Scenario]:
    """Return the scenarios of a document that is valid against its schema, in its order."""
    return [_scenario(entry) for entry in document["scenarios"]]


def _scenario(entry: JsonObject) -> Scenario:
    requirements = entry.get("requirements", {})
    generation = entry["generation"]
    return Scenario(
        id=entry["id"],
        category=Category(entry["category"]),
        strictness=Strictness(entry["strictness"]),
        edit_spec=generation.get("edit_spec"),
        error_type=generation.get("error_type"),
        detectors=tuple(requirements.get("detectors_any_of", ())),
        subject=_subject(generation) if generation["kind"] == "byoe" else None,
    )


def _subject(generation: JsonObject) -> SubjectEdit:
    keys = ("label", "origin", "model_id", "revision", "digest")
    return SubjectEdit(**{key: generation[key] for key in keys})


def subject_entry(scenario_id: str, subject: SubjectEdit) -> JsonObject:
    """Return the entry of a scenarios document for an edited checkpoint; :func:`parse_scenarios` reads it back."""
    return {
        "id": scenario_id,
        "category": Category.BYOE.value,
        "strictness": Strictness.MUST_PASS.value,
        "generation": {"kind": "byoe", **vars(subject)},
    }
