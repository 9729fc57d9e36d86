"""What an edit is, in words: the grammar of edit specs and scopes, and the checks that need no model.

An edit spec is ``type:parameters:scope``; the types are the records of :mod:`pytest_proofpack.plan.edit_kinds`::

    quant_rtn:BITS:GROUP_SIZE:SCOPE     quant_rtn:4:32:all
    fp8_quant:FORMAT:SCOPE              fp8_quant:e5m2:ffn
    magnitude_prune:SPARSITY:SCOPE      magnitude_prune:0.5:all
    lowrank_svd:RANK:SCOPE              lowrank_svd:32:ffn@layer=31
    TYPE:clean:SCOPE                    parameters come from the tuned file
    tool:TOOL:RECIPE                    tool:torchao:int8wo, see :mod:`pytest_proofpack.plan.tool_edits`
    noop

and a scope is ``ffn|attn|all``, optionally with ``@layer=N`` (that block only) or ``@layers=N`` (the first N).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.edit_kinds import EDITS
from pytest_proofpack.plan.records import EditSpec, ToolEdit
from pytest_proofpack.plan.tool_edits import is_tool_spec, parse_tool_edit

Value = int | float | str

SCOPE_GRAMMAR = "ffn|attn|all, optionally followed by @layer=N or @layers=N"
_SCOPE = re.compile(r"(?P<group>ffn|attn|all)(?:@(?P<key>layers?)=(?P<number>[0-9]{1,6}))?")
_CLEAN = "clean"


@dataclass(frozen=True)
class Scope:
    """Where an edit acts.

    Attributes:
        group: ``ffn``, ``attn``, or ``all`` for both.
        layer: the only block to edit, counted from 0; None if not limited so.
        first_layers: edit blocks 0 to ``first_layers - 1``; None if not limited so.
    """

    group: str
    layer: int | None = None
    first_layers: int | None = None

    def includes(self, block: int) -> bool:
        """Tell whether block number ``block`` lies in the scope."""
        if self.layer is not None:
            return block == self.layer
        return self.first_layers is None or block < self.first_layers


@dataclass(frozen=True)
class CleanEdit:
    """An edit whose parameters, and final scope, stand in the tuned file (``TYPE:clean:SCOPE``)."""

    type: str
    scope: str


def parse_scope(text: str) -> Scope:
    """Parse a scope.

    Raises:
        ConfigurationError: ``text`` does not follow the grammar, or ``@layers=0`` would select nothing.
    """
    match = _SCOPE.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"scope {text!r} is not understood: expected {SCOPE_GRAMMAR}.")
    if match["key"] is None:
        return Scope(match["group"])
    number = int(match["number"])
    if match["key"] == "layer":
        return Scope(match["group"], layer=number)
    if number == 0:
        raise ConfigurationError(f"scope {text!r} selects no block: @layers=N takes the first N, so N is at least 1.")
    return Scope(match["group"], first_layers=number)


@dataclass(frozen=True)
class SpecText:
    """An edit spec taken apart, whether or not its type is known: everything but what the values mean."""

    type: str
    values: tuple[str, ...]
    scope: str

    @property
    def clean(self) -> bool:
        """Whether the tuned file has the parameters (``TYPE:clean:SCOPE``)."""
        return self.values == (_CLEAN,)


def split_edit_spec(text: str) -> SpecText:
    """Take an edit spec apart. Nothing is checked."""
    edit_type, *fields = text.split(":")
    return SpecText(edit_type, tuple(fields[:-1]), fields[-1] if fields else "")


def parse_edit_spec(text: str) -> EditSpec | CleanEdit | ToolEdit:
    """Parse an edit spec; see the module's description.

    Raises:
        ConfigurationError: unknown type, wrong number of fields, a parameter out of range, or a bad scope.
    """
    if is_tool_spec(text):
        return parse_tool_edit(text)
    source = f"edit spec {text!r}"
    parts = split_edit_spec(text)
    kind = EDITS.require(parts.type, source)
    if not kind.scoped:
        if ":" in text:
            raise ConfigurationError(f"{source}: {kind.name} takes neither parameters nor a scope.")
        return EditSpec(kind.name, "", {})
    if parts.clean:
        parse_scope(parts.scope)
        return CleanEdit(kind.name, parts.scope)
    if ":" not in text or len(parts.values) != len(kind.parameters):
        raise ConfigurationError(f"{source}: expected {kind.form} or {kind.name}:clean:SCOPE.")
    values: dict[str, Value] = {}
    for parameter, field in zip(kind.parameters, parts.values, strict=True):
        try:
            values[parameter.name] = parameter.read(field)
        except ValueError as error:
            raise ConfigurationError(
                f"{source}: {parameter.name} is {field!r}; expected {parameter.expects}."
            ) from error
    return validated(EditSpec(kind.name, parts.scope, values))


def edit_from_tuned_entry(edit_type: str, entry: Mapping[str, object], source: str) -> EditSpec | None:
    """Build an edit from an entry of a tuned-parameters file.

    Args:
        edit_type: the key that the entry stands under, for example ``quant_rtn``.
        entry: ``{"status": "selected", "edit_dir_name": ..., "scope": ..., <parameters>}``; other keys are ignored.
        source: how error messages name the entry: file, model and edit.

    Returns:
        The edit, or None if the entry's status is ``skipped``.

    Raises:
        ConfigurationError: unknown status or type, or a missing or unusable scope or parameter.
    """
    kind = EDITS.require(edit_type, source)
    status = entry.get("status")
    if status == "skipped":
        return None
    if status != "selected":
        raise ConfigurationError(f"{source}: status is {status!r}; expected 'selected' or 'skipped'.")
    if not kind.scoped:
        return EditSpec(kind.name, "", {})
    scope = entry.get("scope")
    if not isinstance(scope, str):
        raise ConfigurationError(f"{source}: scope is {scope!r}; expected {SCOPE_GRAMMAR}.")
    values: dict[str, Value] = {}
    for parameter in kind.parameters:
        value = entry.get(parameter.name)
        if not isinstance(value, (int, float, str)) or isinstance(value, bool):
            raise ConfigurationError(
                f"{source}: {parameter.name} is {value!r}; {edit_type} expects {parameter.expects}."
            )
        values[parameter.name] = value
    try:
        return validated(EditSpec(edit_type, scope, values))
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from error


def validated(edit: EditSpec) -> EditSpec:
    """Return ``edit`` if its type, parameters and scope can be used.

    Raises:
        ConfigurationError: unknown type, missing, surplus or out-of-range parameters, or a bad scope.
    """
    kind = EDITS.require(edit.type)
    expected = [parameter.name for parameter in kind.parameters]
    if set(edit.parameters) != set(expected):
        raise ConfigurationError(
            f"{edit.type} takes the parameters {expected}, but {sorted(edit.parameters)} were given."
        )
    for parameter in kind.parameters:
        value = edit.parameters[parameter.name]
        if not parameter.fits(value):
            raise ConfigurationError(f"{edit.type}: {parameter.name} is {value!r}; expected {parameter.expects}.")
    if kind.scoped:
        parse_scope(edit.scope)
    return edit
