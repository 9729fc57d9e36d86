"""Certificates of what a quantization tool made: whether recipe, label and the words of its files go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.plan.records import Category, ToolEdit
from pytest_proofpack.plan.tool_edits import TOOL, TOOLS, Tool

_CATEGORIES = (Category.CLEAN, Category.STRESS)
_KEYS = {"type", "source", "tool", "recipe", "group", "sha256"}


def is_made_by_tool(certificate: JsonObject) -> bool:
    """Tell whether a certificate says that its subject was made by a tool that the run called."""
    return bool(certificate["provenance"]["edit"].get("source") == TOOL)


def tool_findings(certificate: JsonObject) -> Iterator[str]:
    """Hold what a certificate records of an edit by a tool against the tool's own record.

    Of a tool that is not known here nothing follows but what every such certificate holds.

    Yields:
        one line for every field that is not as it has to be.
    """
    if not is_made_by_tool(certificate) or "readings" not in certificate:  # certificates of format 1 have none
        return
    edit, made = certificate["provenance"]["edit"], certificate["structure"]["edit_details"].get(TOOL)
    category, origin = certificate["scenario"]["category"], certificate["label"]["origin"]
    if category not in _CATEGORIES:
        yield f"provenance.edit.source: {category!r:.40} is no scenario in which a tool edits"
    if origin != ToolEdit.origin:
        yield f"label.origin: {origin!r:.40}, and what a tool leaves is called what its files say"
    if set(edit) != _KEYS:
        yield "provenance.edit: has other keys than an edit by a tool"
        return
    if not _is_version(made):
        yield "structure.edit_details.tool: expected name and version of the package that made it"
        return
    tool = TOOLS.get(edit["tool"]) if isinstance(edit["tool"], str) else None
    if tool is not None:
        yield from _recipe_findings(certificate, edit, tool, made)


def _recipe_findings(
    certificate: JsonObject, edit: Mapping[str, Any], tool: Tool, made: Mapping[str, str]
) -> Iterator[str]:
    recipe = tool.recipe(edit["recipe"]) if isinstance(edit["recipe"], str) else None
    if recipe is None:
        yield f"provenance.edit.recipe: {tool.name} has no recipe {edit['recipe']!r:.80} here"
        return
    readings = certificate["readings"]
    said = readings["quantization"] if isinstance(readings["quantization"], Mapping) else {}
    package = readings["package"]
    expected: list[tuple[str, object, object]] = [
        ("provenance.edit.type", edit["type"], recipe.label),
        ("readings.form", readings["form"], recipe.form),
        ("readings.quantization.scheme", said.get("scheme"), recipe.scheme),
        ("readings.quantization.group", said.get("group"), edit["group"]),
        ("structure.edit_details.tool.name", made["name"], tool.package),
    ]
    if not recipe.any_group:
        expected.append(("provenance.edit.group", edit["group"], recipe.group))
    if isinstance(package, Mapping) and package.get("name") == made["name"]:
        expected.append(("readings.package.version", package.get("version"), made["version"]))
    for place, found, wanted in expected:
        if found != wanted or isinstance(found, bool):
            yield f"{place}: {found!r:.100}, and {tool.name}'s recipe {recipe.name} leaves {wanted!r:.100}"


def _is_version(made: object) -> bool:
    return (
        isinstance(made, Mapping)
        and set(made) == {"name", "version"}
        and all(isinstance(value, str) and 0 < len(value) <= 100 for value in made.values())
    )
