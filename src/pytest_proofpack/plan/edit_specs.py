"""What an edit is, in words: the grammar of edit specs and scopes, and the checks that need no model.

An edit spec is ``type:parameters:scope``::

    quant_rtn:BITS:GROUP_SIZE:SCOPE     quant_rtn:4:32:all
    fp8_quant:FORMAT:SCOPE              fp8_quant:e5m2:ffn
    magnitude_prune:SPARSITY:SCOPE      magnitude_prune:0.5:all
    lowrank_svd:RANK:SCOPE              lowrank_svd:32:ffn@layer=31
    TYPE:clean:SCOPE                    parameters come from the tuned file
    noop

and a scope is ``ffn|attn|all``, optionally with ``@layer=N`` (that block only) or ``@layers=N`` (the first N).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import EditSpec

Parameter = int | float | str

NOOP = "noop"
EDIT_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    NOOP: (),
    "quant_rtn": ("bits", "group_size"),
    "fp8_quant": ("format",),
    "magnitude_prune": ("sparsity",),
    "lowrank_svd": ("rank",),
}
"""The parameters of every edit type, in the order in which a spec names them."""

FAULTS = (
    "nan_injection",
    "inf_injection",
    "shape_mismatch",
    "missing_tensors",
    "weight_tying_break",
    "extreme_quant",
    "scale_explosion",
    "rank_collapse",
    "norm_collapse",
)
"""The error injections, by the name that scenarios use."""

SCOPE_GRAMMAR = "ffn|attn|all, optionally followed by @layer=N or @layers=N"
_SCOPE = re.compile(r"(?P<family>ffn|attn|all)(?:@(?P<key>layers?)=(?P<number>[0-9]{1,6}))?")
_CLEAN = "clean"


@dataclass(frozen=True)
class Scope:
    """Where an edit acts.

    Attributes:
        family: ``ffn``, ``attn``, or ``all`` for both.
        layer: the only block to edit, counted from 0; None if not limited so.
        first_layers: edit blocks 0 to ``first_layers - 1``; None if not limited so.
    """

    family: str
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
        return Scope(match["family"])
    number = int(match["number"])
    if match["key"] == "layer":
        return Scope(match["family"], layer=number)
    if number == 0:
        raise ConfigurationError(f"scope {text!r} selects no block: @layers=N takes the first N, so N is at least 1.")
    return Scope(match["family"], first_layers=number)


def parse_edit_spec(text: str) -> EditSpec | CleanEdit:
    """Parse an edit spec; see the module's description.

    Raises:
        ConfigurationError: unknown type, wrong number of fields, a parameter out of range, or a bad scope.
    """
    edit_type, *fields = text.split(":")
    _require_known(edit_type, f"edit spec {text!r}")
    if edit_type == NOOP:
        if fields:
            raise ConfigurationError(f"edit spec {text!r}: noop takes neither parameters nor a scope.")
        return EditSpec(NOOP, "", {})
    if len(fields) == 2 and fields[0] == _CLEAN:
        parse_scope(fields[1])
        return CleanEdit(edit_type, fields[1])
    names = EDIT_PARAMETERS[edit_type]
    if len(fields) != len(names) + 1:
        form = ":".join((edit_type, *(name.upper() for name in names), "SCOPE"))
        raise ConfigurationError(f"edit spec {text!r}: expected {form} or {edit_type}:clean:SCOPE.")
    values = {name: _from_text(name, field, f"edit spec {text!r}") for name, field in zip(names, fields, strict=False)}
    return validated(EditSpec(edit_type, fields[-1], values))


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
    _require_known(edit_type, source)
    status = entry.get("status")
    if status == "skipped":
        return None
    if status != "selected":
        raise ConfigurationError(f"{source}: status is {status!r}; expected 'selected' or 'skipped'.")
    if edit_type == NOOP:
        return EditSpec(NOOP, "", {})
    scope = entry.get("scope")
    if not isinstance(scope, str):
        raise ConfigurationError(f"{source}: scope is {scope!r}; expected {SCOPE_GRAMMAR}.")
    values: dict[str, Parameter] = {}
    for name in EDIT_PARAMETERS[edit_type]:
        value = entry.get(name)
        if not isinstance(value, (int, float, str)) or isinstance(value, bool):
            raise ConfigurationError(f"{source}: {name} is {value!r}; {edit_type} expects {_RULES[name][0]}.")
        values[name] = value
    try:
        return validated(EditSpec(edit_type, scope, values))
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from error


def validated(edit: EditSpec) -> EditSpec:
    """Return ``edit`` if its type, parameters and scope can be used.

    Raises:
        ConfigurationError: unknown type, missing, surplus or out-of-range parameters, or a bad scope.
    """
    _require_known(edit.type, "edit")
    expected = EDIT_PARAMETERS[edit.type]
    if set(edit.parameters) != set(expected):
        raise ConfigurationError(
            f"{edit.type} takes the parameters {list(expected)}, but {sorted(edit.parameters)} were given."
        )
    for name in expected:
        wanted, accepts = _RULES[name]
        value = edit.parameters[name]
        if not accepts(value):
            raise ConfigurationError(f"{edit.type}: {name} is {value!r}; expected {wanted}.")
    if edit.type != NOOP:
        parse_scope(edit.scope)
    return edit


def _require_known(edit_type: str, source: str) -> None:
    if edit_type not in EDIT_PARAMETERS:
        raise ConfigurationError(
            f"{source}: the edit type {edit_type!r} is unknown; expected one of {list(EDIT_PARAMETERS)}."
        )


def _from_text(name: str, text: str, source: str) -> Parameter:
    if name == "format":
        return text
    try:
        return float(text) if name == "sparsity" else int(text)
    except ValueError as error:
        raise ConfigurationError(f"{source}: {name} is {text!r}; expected {_RULES[name][0]}.") from error


def _is_integer(value: Parameter, low: int, high: int | None = None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low and (high is None or value <= high)


_RULES: Mapping[str, tuple[str, Callable[[Parameter], bool]]] = {
    "bits": ("a whole number from 2 to 8", lambda value: _is_integer(value, 2, 8)),
    "group_size": ("a whole number of at least 1", lambda value: _is_integer(value, 1)),
    "format": ("e4m3fn or e5m2", lambda value: value in {"e4m3fn", "e5m2"}),
    "sparsity": (
        "a number above 0 and below 1",
        lambda value: isinstance(value, (int, float)) and 0 < value < 1,
    ),
    "rank": ("a whole number of at least 1", lambda value: _is_integer(value, 1)),
}
"""For every parameter: what to expect, in words, and the check."""
