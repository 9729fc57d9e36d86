"""Specs of edits that tools make, and the records of the tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.readings import ALWAYS_DENSE, ALWAYS_PACKED
from pytest_proofpack.models.checkpoint_formats import CHECKPOINT_FORMATS
from pytest_proofpack.plan.edit_kinds import Edit
from pytest_proofpack.plan.edit_specs import parse_edit_spec
from pytest_proofpack.plan.records import ToolEdit
from pytest_proofpack.plan.tool_edits import TOOLS, Recipe, Tool, foreign_facts, foreign_tool, spec_of
from pytest_proofpack.runs.extensions import Registries


def tool(name: str, *recipes: str) -> Tool:
    kinds = tuple(Recipe(recipe, f"{name}:{recipe}", recipe, "torchao") for recipe in recipes)
    return Tool(name, "acme-tool", kinds, lambda _job: None)


@pytest.mark.parametrize(
    ("text", "expected", "spec"),
    [
        ("tool:torchao:int8wo", ToolEdit("torchao", "int8wo", None, "torchao:int8wo"), None),
        ("tool:torchao:int4wo", ToolEdit("torchao", "int4wo", 32, "torchao:int4wo"), "tool:torchao:int4wo:32"),
        ("tool:torchao:int4wo:64", ToolEdit("torchao", "int4wo", 64, "torchao:int4wo"), None),
        ("tool:bitsandbytes:nf4-double", ToolEdit("bitsandbytes", "nf4-double", None, "bnb-nf4"), None),
        (
            "tool:llmcompressor:W4A16",
            ToolEdit("llmcompressor", "W4A16", 128, "compressed-tensors:W4A16"),
            "tool:llmcompressor:W4A16:128",
        ),
        (
            "tool:compressed-tensors:NVFP4A16",
            ToolEdit("compressed-tensors", "NVFP4A16", 16, "compressed-tensors:NVFP4A16"),
            None,
        ),
    ],
)
def test_a_spec(text: str, expected: ToolEdit, spec: str | None) -> None:
    found = parse_edit_spec(text)
    assert found == expected
    assert isinstance(found, ToolEdit)
    assert spec_of(found) == (spec or text)
    assert parse_edit_spec(spec_of(found)) == found


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("tool", "tool:TOOL:RECIPE"),
        ("tool:torchao", "the tools are torchao, bitsandbytes, compressed-tensors, llmcompressor"),
        ("tool:torchao:", "tool:TOOL:RECIPE"),
        ("tool:torchao:int4wo:32:ffn", "tool:TOOL:RECIPE"),
        ("tool:torcha:int8wo", "the tool 'torcha' is unknown.*Did you mean 'torchao'"),
        ("tool:torchao:W4A16", "torchao has no recipe 'W4A16' here; expected one of int8wo, fp8wo"),
        ("tool:compressed-tensors:FP8", "has no recipe 'FP8'"),
        ("tool:torchao:int8wo:32", "int8wo takes no group size: its scales are of whole rows or matrices"),
        ("tool:compressed-tensors:NVFP4A16:32", "takes no group size: its scales are of groups of 16"),
        ("tool:torchao:int4wo:0", "the group size is '0'"),
        ("tool:torchao:int4wo:all", "the group size is 'all'"),
    ],
)
def test_a_spec_that_is_none(text: str, mentions: str) -> None:
    with pytest.raises(ConfigurationError, match=mentions):
        parse_edit_spec(text)


def test_a_certificate_says_what_the_verifier_expects() -> None:
    edit = ToolEdit("torchao", "int4wo", 32, "torchao:int4wo")
    facts = {"source": "tool", "tool": "torchao", "recipe": "int4wo", "group": 32}
    assert edit.to_json() == {"type": "torchao:int4wo", **facts}


def test_every_recipe_leaves_a_form_that_is_certified_and_read_as_it_says() -> None:
    found = {recipe.form for tool in TOOLS.values() for recipe in tool.recipes}
    assert found <= {*CHECKPOINT_FORMATS} & (ALWAYS_DENSE | ALWAYS_PACKED)
    assert not any(recipe.any_group and recipe.group is None for tool in TOOLS.values() for recipe in tool.recipes)


def test_an_extension_adds_one() -> None:
    with pytest.raises(ConfigurationError, match="'acme' is unknown"):
        parse_edit_spec("tool:acme:tiny")
    registries = Registries()
    registries.tools.register(tool("acme", "tiny"))
    try:
        assert parse_edit_spec("tool:acme:tiny") == ToolEdit("acme", "tiny", None, "acme:tiny")
        assert foreign_tool("tool:acme:tiny") is None
    finally:
        registries.close()
    assert foreign_tool("tool:acme:tiny") == "acme"
    assert foreign_tool("quant_rtn:4:32:all") is None
    assert foreign_facts("tool:acme:tiny", "any") == {
        "type": "any",
        "source": "tool",
        "tool": "acme",
        "recipe": "tiny",
    }


@pytest.mark.parametrize("recipes", [(), ("a", "a"), ("a:b",), ("",)])
def test_a_record_that_no_spec_could_name(recipes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="by a name of its own"):
        tool("acme", *recipes)
    with pytest.raises(ConfigurationError, match="lower-case"):
        tool("Acme", "a")


def test_an_edit_cannot_take_the_name() -> None:
    with pytest.raises(ConfigurationError, match="edits by tools"):
        Edit("tool", lambda _views, _parameters, _seed: {}, "words")


def test_no_record_imports_what_it_calls() -> None:
    """The verifier reads the records, and has neither torch nor the tools."""
    package = Path(__file__).parents[2] / "src/pytest_proofpack/edits/tools"
    for module in package.glob("*.py"):
        top = [line for line in module.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert all("pytest_proofpack" in line or "__future__" in line or "typing" in line for line in top), module
