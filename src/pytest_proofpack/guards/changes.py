"""What separates a loaded subject from its baseline, tensor by tensor: the evidence, and what follows from it.

This gates nothing. It tells a reader what an edit made elsewhere changed, where an edit of our own is known by its
parameters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import exact_mapping, mapping
from pytest_proofpack.guards.spectral_evidence import PARAMETER_GROUPS
from pytest_proofpack.guards.spectral_evidence import SAME as SPECTRALLY_SAME
from pytest_proofpack.guards.tables import column_names, rows_of, table_of
from pytest_proofpack.guards.vocabulary_growth import GROWN, TABLES, explained_by_growth

SAME = "same"
CHANGED = "changed"
NOT_FINITE = "not_finite"
NOT_COMPARED = "not_compared"

GROUP = 32
"""How many neighbouring values of a row are looked at together when distinct values are counted."""

_EVIDENCE = frozenset({"source", "tensors", "added", "removed", "reshaped", "loading"})
_SOURCES = ("memory", "files")
_KINDS: Mapping[str, tuple[str, ...]] = {
    "added": ("unexpected_tensors", "tying"),
    "removed": ("missing_tensors", "tying"),
    "reshaped": ("shape", "vocabulary", GROWN),
}
"""The violations of the invariants, one of which each list of names shows up in, unless loading reported the names."""
_LOADING: Mapping[str, str] = {"missing": "removed", "unexpected": "added", "mismatched": "reshaped"}
"""The list of names that holds what loading reported."""
_MAX_TENSORS = 200_000
_MAX_NAME = 512
_MAX_ELEMENTS = 2**53
_MOST_BITS = 4
_TOLERANCE = 1e-3  # of norms that float32 arithmetic summed in different orders

Number = float | None


@dataclass(frozen=True)
class TensorChange:
    """One parameter of the baseline, and what the subject has in its place.

    Attributes:
        name, group: of the baseline's parameter.
        state: ``same`` (equal values), ``changed``, ``not_finite`` (the subject's values), or ``not_compared`` (absent,
            of another shape, unless rows were added to a table of tokens, packed integers, or not to be found in the
            baseline's files).
        elements: how many values the baseline's has.
        norm_base, zeros_base: Frobenius norm and count of zeros of the baseline's; None if not compared. The norm is
            None too if it is not finite, of a tensor that is equal in both.
        norm, zeros, difference: of the subject's, and the Frobenius norm of the difference; only if changed.
        distinct_base, distinct: the largest count of distinct values in a group of :data:`GROUP` neighbours of a row,
            over a sample of rows; only of changed matrices that are wide enough.
    """

    name: str
    group: str
    state: str
    elements: int
    norm_base: Number = None
    zeros_base: int | None = None
    norm: Number = None
    zeros: int | None = None
    difference: Number = None
    distinct_base: int | None = None
    distinct: int | None = None


@dataclass(frozen=True)
class ModelChanges:
    """Everything that separates a subject from its baseline.

    Attributes:
        source: where the baseline's values came from: ``memory`` or ``files``.
        tensors: one entry per parameter of the baseline.
        added, removed, reshaped: names that only the subject has, only the baseline has, or both in other shapes;
            those that loading the subject reported included: what it found missing of the baseline's is removed.
        loading: how many keys loading reported as ``missing``, ``unexpected`` and ``mismatched``.
    """

    source: str
    tensors: tuple[TensorChange, ...]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    loading: Mapping[str, int] = field(default_factory=dict)

    @property
    def grown(self) -> tuple[str, ...]:
        """Tables of the baseline to which the subject has added rows; those that both have were compared."""
        return tuple(own.name for own in self.tensors if own.name in self.reshaped and own.state != NOT_COMPARED)

    @property
    def touched(self) -> tuple[str, ...]:
        """The baseline's parameters that are not known to be equal in the subject."""
        return tuple(tensor.name for tensor in self.tensors if tensor.state != SAME)

    def to_json(self) -> JsonObject:
        """Return the evidence that a certificate records under ``structure.changes``."""
        return {
            "source": self.source,
            "tensors": table_of(TensorChange, self.tensors),
            "added": list(self.added),
            "removed": list(self.removed),
            "reshaped": list(self.reshaped),
            "loading": {kind: self.loading.get(kind, 0) for kind in _LOADING},
        }


def derive_changes(
    block: object,
    invariants: Mapping[str, Any],
    spectral: Mapping[str, Any],
    sha256: Callable[[object], str] = sha256_of,
) -> JsonObject:
    """Return what follows from :meth:`ModelChanges.to_json`: the derived keys of a certificate's ``structure`` block.

    Args:
        block: the evidence.
        invariants: the certificate's block, whose violations have to name what is added, removed or reshaped.
        spectral: the certificate's block, which has to call the same tensors equal.
        sha256: the digest of a JSON value, in the certificate's format.

    Raises:
        FormatError: the evidence is malformed, or contradicts itself or the other two blocks.
    """
    changes = _read(block)
    _check_growth(changes, invariants["violations"])
    _check_violations(changes, invariants["violations"])
    _check_spectra(changes, spectral)
    states = [tensor.state for tensor in changes.tensors]
    members: dict[str, list[TensorChange]] = defaultdict(list)
    for tensor in changes.tensors:
        members[tensor.group].append(tensor)
    columns = mapping(block, "structure.changes")["tensors"]
    return {
        "parameters_changed": [t.name for t in changes.tensors if t.state in (CHANGED, NOT_FINITE)],
        "summary": {
            "parameters": len(states),
            "changed": states.count(CHANGED) + states.count(NOT_FINITE),
            "not_finite": states.count(NOT_FINITE),
            "not_compared": states.count(NOT_COMPARED),
            "added": len(changes.added),
            "removed": len(changes.removed),
            "reshaped": len(changes.reshaped),
            "families": {parameter_group: _group(tensors) for parameter_group, tensors in sorted(members.items())},
            "digests": {name: sha256(values)[:16] for name, values in columns.items()},
        },
    }


def _group(tensors: Sequence[TensorChange]) -> JsonObject:
    """Return the facts of one group: relative change is that of all compared parameters together."""
    compared = [tensor for tensor in tensors if tensor.state in (SAME, CHANGED)]
    changed = [tensor for tensor in compared if tensor.state == CHANGED]
    elements = sum(tensor.elements for tensor in compared)
    norm_base = math.hypot(*(tensor.norm_base or 0.0 for tensor in compared))
    difference = math.hypot(*(tensor.difference or 0.0 for tensor in changed))
    zeros_base = sum(tensor.zeros_base or 0 for tensor in compared)
    zeros = sum((tensor.zeros_base if tensor.zeros is None else tensor.zeros) or 0 for tensor in compared)
    distinct = max((tensor.distinct for tensor in changed if tensor.distinct is not None), default=None)
    return {
        "parameters": len(tensors),
        "changed": sum(tensor.state in (CHANGED, NOT_FINITE) for tensor in tensors),
        "relative_change": difference / norm_base if norm_base else None,
        "sparsity_base": zeros_base / elements if elements else None,
        "sparsity": zeros / elements if elements else None,
        "distinct_base": max((t.distinct_base for t in changed if t.distinct_base is not None), default=None),
        "distinct": distinct,
        "bits": max(1, math.ceil(math.log2(distinct))) if distinct is not None and distinct <= 2**_MOST_BITS else None,
    }


def _read(block: object) -> ModelChanges:
    block = exact_mapping(block, "structure.changes", _EVIDENCE)
    if block["source"] not in _SOURCES:
        raise FormatError(f"structure.changes.source: expected one of {', '.join(_SOURCES)}")
    tensors = tuple(_tensor(row) for row in _rows(block["tensors"]))
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        raise FormatError("structure.changes: a tensor is listed twice")
    lists = {key: _names(block[key], key) for key in _KINDS}
    loading = exact_mapping(block["loading"], "structure.changes.loading", frozenset(_LOADING))
    if not all(_is_count(count, _MAX_TENSORS) for count in loading.values()):
        raise FormatError("structure.changes.loading: expected counts")
    return ModelChanges(block["source"], tensors, **lists, loading=loading)


def _rows(table: object) -> Iterator[dict[str, Any]]:
    names, where = column_names(TensorChange), "structure.changes.tensors"
    for values in rows_of(exact_mapping(table, where, frozenset(names)), where, names, _MAX_TENSORS):
        yield dict(zip(names, values, strict=True))


_PRESENT: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    SAME: (("zeros_base",), ("norm_base",)),
    CHANGED: (("norm_base", "zeros_base", "norm", "zeros", "difference"), ("distinct_base", "distinct")),
    NOT_FINITE: (("norm_base", "zeros_base"), ()),
    NOT_COMPARED: ((), ()),
}
"""By state, the numbers that have to be there and those that may be."""


def _tensor(row: dict[str, Any]) -> TensorChange:
    where = f"structure.changes.tensors: {row['name']!r:.80}"
    if not _is_name(row["name"]) or row["family"] not in PARAMETER_GROUPS or row["state"] not in _PRESENT:
        raise FormatError(f"{where}: not a name, a family and a state")
    tensor = TensorChange(*(row[name] for name in column_names(TensorChange)))
    if not _is_count(tensor.elements, _MAX_ELEMENTS):
        raise FormatError(f"{where}: elements must be a count")
    needed, possible = _PRESENT[tensor.state]
    there = {key for key in (*_PRESENT[CHANGED][0], *_PRESENT[CHANGED][1]) if row[key] is not None}
    if not set(needed) <= there <= {*needed, *possible} or (tensor.distinct is None) != (tensor.distinct_base is None):
        raise FormatError(f"{where}: is {tensor.state}, which its numbers contradict")
    norms = [row[key] for key in ("norm_base", "norm", "difference") if row[key] is not None]
    counts = [row[key] for key in ("zeros_base", "zeros") if row[key] is not None]
    groups = [row[key] for key in ("distinct_base", "distinct") if row[key] is not None]
    if not all(_is_norm(value) for value in norms) or not all(_is_count(value, tensor.elements) for value in counts):
        raise FormatError(f"{where}: norms must be finite and not negative, zeros at most as many as elements")
    if not all(_is_count(value, GROUP) and value > 0 for value in groups):
        raise FormatError(f"{where}: distinct values must be 1 to {GROUP}")
    if tensor.state == CHANGED and not _is_triangle(*norms):
        raise FormatError(f"{where}: no difference of {tensor.difference} lies between these norms")
    return tensor


def _is_triangle(base: float, now: float, difference: float) -> bool:
    slack = _TOLERANCE * (base + now)
    return abs(base - now) - slack <= difference <= base + now + slack


def _check_violations(changes: ModelChanges, violations: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that names and invariants tell the same story."""
    kinds = {violation["kind"] for violation in violations}
    reported = [violation for violation in violations if violation["kind"] == "loading"]
    if sum(violation["count"] for violation in reported) != sum(changes.loading.values()):
        raise FormatError("structure.changes.loading: the invariants count other keys")
    for violation in reported:
        kind = violation["message"].partition(" ")[0]
        listed = _where_reported(changes, kind)
        if changes.loading.get(kind) != violation["count"] or not listed.issuperset(violation["names"]):
            raise FormatError("structure.changes: the invariants name other keys that loading reported")
    for kind, key in _LOADING.items():
        if getattr(changes, key) and not changes.loading[kind] and not kinds & set(_KINDS[key]):
            raise FormatError(f"structure.changes.{key}: no violation of the invariants says so")


def _where_reported(changes: ModelChanges, kind: str) -> frozenset[str]:
    """Return the names among which those of one kind that loading reported have to be.

    What is missing of a model of more layers is added as well; what is unexpected of one of fewer is the baseline's.
    """
    listed = frozenset(getattr(changes, _LOADING.get(kind, ""), ()))
    if kind == "missing":
        return listed.union(changes.added)
    if kind == "unexpected":
        return listed.union(tensor.name for tensor in changes.tensors)
    return listed


def _check_growth(changes: ModelChanges, violations: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that only tables which grew with the vocabulary are compared though their shapes differ.

    Raises:
        FormatError: others are, or the vocabulary is said to have grown and something else did.
    """
    kinds = {violation["kind"] for violation in violations}
    tables = {tensor.name for tensor in changes.tensors if tensor.group in TABLES}
    if changes.grown and not (GROWN in kinds and tables.issuperset(changes.grown)):
        raise FormatError(f"structure.changes: {changes.grown[0]} was compared, though its shapes differ")
    if explained_by_growth(violations) and not (changes.reshaped and tables.issuperset(changes.reshaped)):
        raise FormatError("structure.changes.reshaped: is not the tables of a vocabulary that grew")


def _check_spectra(changes: ModelChanges, spectral: Mapping[str, Any]) -> None:
    """Make sure that both call the same tensors equal, and that norms of the baseline agree."""
    known = {tensor.name: tensor for tensor in changes.tensors}
    for table, norm in (("matrices", "frobenius_base"), ("vectors", "norm_base")):
        columns = mapping(spectral.get(table), f"spectral.{table}")
        for label, state, value in zip(columns["name"], columns["state"], columns[norm], strict=True):
            tensor = known.get(str(label).partition("[")[0])
            if tensor is None:
                raise FormatError(f"structure.changes: {label!r:.80} of the spectral guard is not among the parameters")
            if (tensor.state == SAME) != (state == SPECTRALLY_SAME):
                raise FormatError(f"structure.changes: {tensor.name} is {tensor.state}, to the spectral guard {state}")
            whole = tensor.name == label and tensor.norm_base is not None and value is not None
            if whole and not math.isclose(tensor.norm_base or 0.0, value, rel_tol=_TOLERANCE, abs_tol=1e-30):
                raise FormatError(f"structure.changes: norm_base of {tensor.name} is not the spectral guard's")


def _names(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MAX_TENSORS or not all(_is_name(name) for name in value):
        raise FormatError(f"structure.changes.{key}: expected a list of names")
    return tuple(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_norm(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e39
