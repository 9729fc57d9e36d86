"""The packaged schemas are schemas, and their findings are sentences that name the key."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from pytest_proofpack.common.schemas import MAX_FINDINGS, findings_of, require_schema, schema_findings, validator_of
from pytest_proofpack.errors import ConfigurationError

DATA = Path(str(resources.files("pytest_proofpack"))) / "data"
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


def test_a_pattern_is_matched_up_to_the_end_and_not_to_a_line_break_before_it() -> None:
    validator = validator_of({"properties": {"a": {"pattern": "^[a-z]$"}}, "propertyNames": {"pattern": "^[ab]$"}})
    assert findings_of(validator, {"a": "a"}) == []
    assert findings_of(validator, {"a": "a\n"}) == [r"a: 'a\n' does not match '^[a-z]$'"]
    assert findings_of(validator, {"b\n": 1}) == [r"top level: 'b\n' does not match '^[ab]$'"]


@pytest.mark.parametrize("file", sorted(DATA.glob("*.schema.json")), ids=lambda file: file.name)
def test_patterns_say_where_a_text_ends_in_one_way(file: Path) -> None:
    """``validator_of`` knows a ``$`` that is a pattern's last character."""
    for pattern in re.findall(r'"pattern": "([^"]*)"', file.read_text(encoding="utf-8")):
        assert "$" not in pattern[:-1]
