"""Edits that a quantization tool makes, ``tool:TOOL:RECIPE`` or ``tool:TOOL:RECIPE:GROUP_SIZE``, and the tools.

The tool quantizes the model of the suite into a temporary directory, and what it leaves is certified like a checkpoint
that was edited elsewhere: its losses as it runs, its weights as they are worth. Each tool is one record, which says
what whoever plans or verifies needs to know; what works on models is imported when the edit is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import ToolEdit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOOL = "tool"
"""What the spec of such an edit begins with."""
FORM = "tool:TOOL:RECIPE or tool:TOOL:RECIPE:GROUP_SIZE"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_GROUP = re.compile(r"[1-9][0-9]{0,5}")


class Load(Protocol):
    """Loads the model that is to be quantized, on the job's device."""

    def __call__(self, quantization: object | None = None) -> PreTrainedModel:
        """Return it dense, or quantized while it is loaded, as a configuration of transformers says."""


@dataclass(frozen=True)
class Recipe:
    """One thing that a tool can do to a model.

    Attributes:
        name: as the tool's users call it.
        label: what the files that it leaves say that their edit is called.
        scheme: what they are called as a form of quantization, ``readings.quantization.scheme`` of a certificate.
        form: name of the checkpoint format that recognises them.
        group: how many weights of a row share a scale; None where whole rows or matrices do.
        any_group: whether a spec may give another number.
        whole: rows have to be a multiple of so many values, on CPUs, whatever shares a scale.
        gpu: what of it has kernels for GPUs alone; empty if it runs on CPUs.
        half_only: whether what it leaves runs in bfloat16 alone.
    """

    name: str
    label: str
    scheme: str
    form: str
    group: int | None = None
    any_group: bool = False
    whole: int = 1
    gpu: str = ""
    half_only: bool = False


@dataclass(frozen=True)
class ToolJob:
    """What a tool is asked to do.

    Attributes:
        recipe: the recipe.
        group: how many weights share a scale; None where that is nothing of a group.
        load: loads the model.
        target: the directory to save the quantized model in; it is there, and empty.
    """

    recipe: Recipe
    group: int | None
    load: Load
    target: Path


@dataclass(frozen=True)
class Tool:
    """A quantization tool.

    Attributes:
        name: as specs call it: lower case, digits, ``-``.
        package: the distribution that it comes with.
        recipes: what it can do.
        make: quantizes a model and saves it, configuration and weights; from nothing but the model.
        install: what stands behind ``pip install`` where it is missing; by default the extra of the package's name.

    Raises:
        ConfigurationError: the name, or a recipe's, cannot be used, or stands there twice.
    """

    name: str
    package: str
    recipes: tuple[Recipe, ...]
    make: Callable[[ToolJob], None] = field(hash=False)
    install: str = ""

    def __post_init__(self) -> None:
        names = [recipe.name for recipe in self.recipes]
        wrong = [name for name in names if names.count(name) > 1 or not name or ":" in name]
        if not _NAME.fullmatch(self.name) or wrong or not names:
            raise ConfigurationError(
                f"tool {self.name!r}: call it by 1 to 40 lower-case letters, digits and '-', a letter first, and every "
                "recipe by a name of its own without ':'."
            )

    @property
    def installation(self) -> str:
        """What stands behind ``pip install`` where it is missing."""
        return self.install or f'"pytest-proofpack[{self.package}]"'

    def recipe(self, name: str) -> Recipe | None:
        """Return a recipe by its name; None if there is none of that name."""
        return next((recipe for recipe in self.recipes if recipe.name == name), None)


TOOLS: Registry[Tool] = Registry("tool", "pytest_proofpack.edits.tools:BUILTIN_TOOLS")
"""Every tool by its name."""


def parse_tool_edit(text: str) -> ToolEdit:
    """Parse the spec of an edit that a tool makes.

    Raises:
        ConfigurationError: it does not follow the grammar; the tool or the recipe is unknown, or takes no such group.
    """
    source = f"edit spec {text!r}"
    name, recipe_name, group = _parts(text, source)
    tool = TOOLS.require(name, source)
    recipe = tool.recipe(recipe_name)
    if recipe is None:
        known = ", ".join(recipe.name for recipe in tool.recipes)
        raise ConfigurationError(f"{source}: {name} has no recipe {recipe_name!r} here; expected one of {known}.")
    if group is not None and not recipe.any_group:
        scales = "whole rows or matrices" if recipe.group is None else f"groups of {recipe.group}"
        raise ConfigurationError(f"{source}: {recipe_name} takes no group size: its scales are of {scales}.")
    return ToolEdit(name, recipe_name, group or recipe.group, recipe.label)


def is_tool_spec(text: str) -> bool:
    """Tell whether an edit spec is of an edit that a tool makes, known here or not."""
    return text.partition(":")[0] == TOOL


def foreign_tool(text: str) -> str | None:
    """Return the name of the tool that a spec asks for if it is none that is known here; None otherwise."""
    if not is_tool_spec(text):
        return None
    name = text.split(":")[1] if ":" in text else ""
    return None if name in TOOLS else name


def foreign_facts(text: str, label: object) -> dict[str, object] | None:
    """Return what a certificate can record of an edit by a tool that is not known here, given the label that it has.

    None if the spec is not understood. Without a group in the spec the tool's own is not known: it is left out.
    """
    try:
        name, recipe, group = _parts(text, "")
    except ConfigurationError:
        return None
    facts = {"type": label, "source": "tool", "tool": name, "recipe": recipe}
    return facts if group is None else {**facts, "group": group}


def recipe_of(edit: ToolEdit) -> Recipe:
    """Return the recipe of an edit that was parsed."""
    recipe = TOOLS[edit.tool].recipe(edit.recipe)
    assert recipe is not None
    return recipe


def spec_of(edit: ToolEdit) -> str:
    """Return the spec of an edit, for people: its group where the recipe lets one choose it."""
    chosen = f":{edit.group}" if recipe_of(edit).any_group else ""
    return f"{TOOL}:{edit.tool}:{edit.recipe}{chosen}"


def _parts(text: str, source: str) -> tuple[str, str, int | None]:
    """Return tool, recipe and group of a spec."""
    _, *parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigurationError(f"{source}: expected {FORM}; the tools are {', '.join(TOOLS)}.")
    if len(parts) == 2:
        return parts[0], parts[1], None
    if not _GROUP.fullmatch(parts[2]):
        raise ConfigurationError(f"{source}: the group size is {parts[2]!r}; expected a whole number of at least 1.")
    return parts[0], parts[1], int(parts[2])
