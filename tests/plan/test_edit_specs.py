"""The grammar of edit specs and scopes, and the checks on parameters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.edit_specs import (
    CleanEdit,
    Scope,
    edit_from_tuned_entry,
    parse_edit_spec,
    parse_scope,
    validated,
)
from pytest_proofpack.plan.records import EditSpec

SUITES = Path(__file__).parents[2] / "suites"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("quant_rtn:4:32:all", EditSpec("quant_rtn", "all", {"bits": 4, "group_size": 32})),
        ("fp8_quant:e5m2:all", EditSpec("fp8_quant", "all", {"format": "e5m2"})),
        ("fp8_quant:e4m3fn:attn", EditSpec("fp8_quant", "attn", {"format": "e4m3fn"})),
        ("magnitude_prune:0.5:all", EditSpec("magnitude_prune", "all", {"sparsity": 0.5})),
        ("lowrank_svd:32:ffn@layer=31", EditSpec("lowrank_svd", "ffn@layer=31", {"rank": 32})),
        ("quant_rtn:clean:ffn", CleanEdit("quant_rtn", "ffn")),
        ("noop", EditSpec("noop", "", {})),
    ],
)
def test_specs_of_the_suites_parse(text: str, expected: EditSpec | CleanEdit) -> None:
    assert parse_edit_spec(text) == expected


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("quant_rtm:4:32:all", "quant_rtm"),
        ("quant_rtn:4:all", "quant_rtn:BITS:GROUP_SIZE:SCOPE"),
        ("quant_rtn:1:32:all", "from 2 to 8"),
        ("quant_rtn:9:32:all", "from 2 to 8"),
        ("quant_rtn:4.0:32:all", "from 2 to 8"),
        ("quant_rtn:4:0:all", "at least 1"),
        ("fp8_quant:e4m3:all", "e4m3fn or e5m2"),
        ("magnitude_prune:0:all", "above 0 and below 1"),
        ("magnitude_prune:1:all", "above 0 and below 1"),
        ("magnitude_prune:nan:all", "above 0 and below 1"),
        ("magnitude_prune:half:all", "above 0 and below 1"),
        ("lowrank_svd:0:all", "at least 1"),
        ("lowrank_svd:4:mlp", "ffn|attn|all"),
        ("lowrank_svd:clean:mlp", "ffn|attn|all"),
        ("noop:all", "noop"),
        ("", "unknown"),
    ],
)
def test_unusable_specs_say_what_was_expected(text: str, mentions: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_edit_spec(text)
    assert mentions in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected", "blocks"),
    [
        ("ffn", Scope("ffn"), [0, 1, 2, 3]),
        ("attn@layer=2", Scope("attn", layer=2), [2]),
        ("all@layers=2", Scope("all", first_layers=2), [0, 1]),
        ("all@layer=0", Scope("all", layer=0), [0]),
    ],
)
def test_scopes(text: str, expected: Scope, blocks: list[int]) -> None:
    scope = parse_scope(text)
    assert scope == expected
    assert [block for block in range(4) if scope.includes(block)] == blocks


@pytest.mark.parametrize(
    "text",
    ["", "ffn@", "ffn@layer=", "ffn@layer=-1", "ffn@layers=0", "FFN", "ffn@block=1", "ffn@layer=1@layer=2", "ffn\n"],
)
def test_bad_scopes_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="scope"):
        parse_scope(text)


def test_every_entry_of_the_tuned_file_makes_an_edit() -> None:
    tuned = json.loads((SUITES / "tuned_edit_params.json").read_text(encoding="utf-8"))
    edits = {
        (model, edit_type): edit_from_tuned_entry(edit_type, entry, f"{model} {edit_type}")
        for model, entries in tuned["models"].items()
        for edit_type, entry in entries.items()
    }
    assert edits["mistralai/Mistral-7B-v0.1", "lowrank_svd"] == EditSpec("lowrank_svd", "ffn@layer=15", {"rank": 32})
    assert edits["mistralai/Mistral-7B-v0.1", "fp8_quant"] == EditSpec("fp8_quant", "ffn", {"format": "e5m2"})


def test_skipped_entries_make_no_edit() -> None:
    assert edit_from_tuned_entry("lowrank_svd", {"status": "skipped"}, "file.json: model") is None


@pytest.mark.parametrize(
    ("entry", "mentions"),
    [
        ({"scope": "ffn", "rank": 4}, "status is None"),
        ({"status": "selected", "rank": 4}, "scope is None"),
        ({"status": "selected", "scope": "ffn"}, "rank is None"),
        ({"status": "selected", "scope": "ffn", "rank": True}, "rank is True"),
        ({"status": "selected", "scope": "ffn", "rank": "32"}, "rank is '32'"),
        ({"status": "selected", "scope": "mlp", "rank": 4}, "'mlp'"),
    ],
)
def test_bad_tuned_entries_name_file_and_value(entry: dict[str, object], mentions: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        edit_from_tuned_entry("lowrank_svd", entry, "tuned.json: some/model")
    assert "tuned.json: some/model" in str(caught.value)
    assert mentions in str(caught.value)


def test_surplus_parameters_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="bits"):
        validated(EditSpec("lowrank_svd", "ffn", {"rank": 4, "bits": 4}))


def test_specs_parse_without_torch() -> None:
    code = (
        "import sys, pytest_proofpack.plan.edit_specs as e; e.parse_edit_spec('quant_rtn:4:32:all');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pytest')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
