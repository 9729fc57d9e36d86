"""The packaged schemas are schemas, and their findings are sentences that name the key."""

from __future__ import annotations

import json
from importlib import resources

import pytest
from jsonschema import Draft202012Validator

from pytest_proofpack.common.schemas import MAX_FINDINGS, require_schema, schema_findings
from pytest_proofpack.errors import ConfigurationError

NAMES = ("certificate", "determinism_repeats", "manifest", "run", "scenarios", "suite", "tuned_edit_params")
SUITE = {"schema": "proof_pack_suite_v1", "name": "mine", "models": [{"id": "a"}], "text": {"provider": "synthetic"}}


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_schema_is_a_valid_one(name: str) -> None:
    file = resources.files("pytest_proofpack").joinpath("data", f"{name}.schema.json")
    Draft202012Validator.check_schema(json.loads(file.read_bytes()))


def test_findings_name_the_key_and_are_bounded() -> None:
    assert schema_findings("suite", SUITE) == []
    assert schema_findings("suite", {**SUITE, "runs": {"clean": -1}}) == [
        "runs.clean: -1 is less than the minimum of 0"
    ]
    assert schema_findings("suite", {**SUITE, "more": 1})[0].startswith("top level: Additional properties")
    many = schema_findings("suite", {**SUITE, "models": [{"id": "x" * 10_000}] * 50})
    assert len(many) == MAX_FINDINGS
    assert max(map(len, many)) < 300


@pytest.mark.parametrize("value", [3.0, True, "3", None])
def test_a_count_has_to_be_a_whole_number(value: object) -> None:
    assert schema_findings("suite", {**SUITE, "runs": {"clean": value}})[0].startswith("runs.clean: ")


def test_a_users_file_is_named_with_all_that_is_wrong() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^my.toml is not a usable suite file: models: \[\] .*; name: 5 is not"
    ):
        require_schema("suite", {**SUITE, "models": [], "name": 5}, "my.toml")
