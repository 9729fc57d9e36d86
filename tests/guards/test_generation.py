"""Differences beside the weights follow from recorded facts, which a stranger compares again."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.generation import derive_generation, generation_evidence, recorded_fact
from tests.support.certificates import make_evidence, make_plan

END = "generation.eos_token_id"


def differences(ours: object, theirs: object) -> list[dict[str, Any]]:
    sides = ({END: recorded_fact("generation_config.json", value)} for value in (ours, theirs))
    found: list[dict[str, Any]] = derive_generation(generation_evidence(*sides))["differences"]
    return found


def test_a_difference_names_file_key_and_both_values() -> None:
    (found,) = differences(2, [2, 5])
    assert found == {"file": "generation_config.json", "key": "eos_token_id", "baseline": 2, "subject": [2, 5]}


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1.0), (None, None), ({"a": None}, {}), ("x" * 500, "x" * 500)])
def test_what_says_the_same_is_none(ours: object, theirs: object) -> None:
    assert differences(ours, theirs) == []


def test_what_is_missing_is_missing_in_the_subjects_file() -> None:
    ours = {END: recorded_fact("config.json", 2), "config.eos_token_id": recorded_fact("config.json", 2)}
    theirs = {
        "config.eos_token_id": recorded_fact("config.json", 2),
        "generation.temperature": recorded_fact("generation_config.json", 0.5),
    }
    found = derive_generation(generation_evidence(ours, theirs))["differences"]
    named = [(entry["file"], entry["key"]) for entry in found]
    assert named == [("generation_config.json", "eos_token_id"), ("generation_config.json", "temperature")]


def test_absent_is_null() -> None:
    none = recorded_fact("config.json", None)
    assert derive_generation(generation_evidence({END: none}, {}))["differences"] == []


@pytest.mark.parametrize(
    "block",
    [
        {"baseline": {}, "subject": None},
        {"baseline": [], "subject": {}},
        {"baseline": {END: 2}, "subject": {}},
        {"baseline": {END: {"file": 5, "value": 2}}, "subject": {}},
        {"baseline": {END: {"file": "config.json"}}, "subject": {}},
    ],
)
def test_evidence_that_is_none(block: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="generation"):
        derive_generation(block)


def test_a_subject_edited_in_memory_has_no_files_of_its_own() -> None:
    document = build_certificate(make_evidence(make_plan()[1].requests[0]))
    assert document["generation"]["compared"] is False
    with pytest.raises(FormatError, match="a subject that was loaded"):
        derive({**document, "generation": {**document["generation"], "baseline": {}, "subject": {}}})
