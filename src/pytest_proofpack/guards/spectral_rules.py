"""The spectral guard's rules: what of a single matrix or vector is a violation, and which violations are explained."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.spectral_evidence import MEASURED, MISSING, NOT_FINITE, MatrixChange, VectorChange

_BUDGETED_ROW_GROUPS = ("ffn", "attn")
_PROTECTED_GROUPS = ("embed", "head")

Change = TypeVar("Change", MatrixChange, VectorChange)
Finding = tuple[str, str, float | None]
"""Kind, severity and value of a violation."""


@dataclass(frozen=True)
class SpectralViolation:
    """One rule that one tensor breaks.

    Attributes:
        name: label of the matrix or name of the vector.
        group: its group.
        kind: ``sigma_ratio``, ``stable_rank``, ``row_ratio``, ``column_ratio``, ``gain_ratio``, ``not_finite`` or
            ``missing``.
        severity: ``fatal``, ``severe`` or ``budgeted``; the latter two count against ``max_caps``.
        value: the quotient, subject over baseline, that broke the rule; None if there is none.
    """

    name: str
    group: str
    kind: str
    severity: str
    value: float | None = None

    @property
    def parameter(self) -> str:
        """The parameter concerned."""
        return self.name.partition("[")[0]

    def to_json(self) -> JsonObject:
        """Return the JSON form recorded in the certificate."""
        return {
            "module": self.name,
            "family": self.group,
            "kind": self.kind,
            "severity": self.severity,
            "value": self.value,
        }


def each_violation(
    rule: Callable[[Change, Mapping[str, Any]], Iterator[Finding]], changes: Iterable[Change], policy: Mapping[str, Any]
) -> Iterator[SpectralViolation]:
    """Apply a rule to every tensor and yield what it finds; what is missing or not finite needs no rule."""
    for change in changes:
        if change.state in (MISSING, NOT_FINITE):
            yield SpectralViolation(change.name, change.group, change.state, "fatal")
        elif change.state == MEASURED:
            for kind, severity, value in rule(change, policy):
                yield SpectralViolation(change.name, change.group, kind, severity, value)


def matrix_violations(matrix: MatrixChange, policy: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge the singular value, stable rank, rows and columns of a matrix."""
    ratio = _quotient(matrix.sigma, matrix.sigma_base)
    if ratio is None or not 1 / policy["fatal_sigma_ratio"] <= ratio <= policy["fatal_sigma_ratio"]:
        yield "sigma_ratio", "fatal", ratio
    elif abs(math.log(ratio)) > math.log(policy["sigma_ratio_max"]):
        yield "sigma_ratio", "budgeted", ratio
    rank = _stable_rank_ratio(matrix)
    if rank is not None and rank < policy["stable_rank_ratio_min"]:
        yield "stable_rank", "severe" if rank < policy["stable_rank_ratio_severe"] else "budgeted", rank
    for kind, low, high in (
        ("row_ratio", matrix.row_min, matrix.row_max),
        ("column_ratio", matrix.column_min, matrix.column_max),
    ):
        assert low is not None
        assert high is not None
        if high > policy["fatal_row_ratio"]:
            yield kind, "fatal", high
        if matrix.group in _PROTECTED_GROUPS and kind == "row_ratio" and low < policy["fatal_protected_row_ratio"]:
            yield kind, "fatal", low
        if matrix.group in _BUDGETED_ROW_GROUPS and low < policy["row_ratio_min"]:
            yield kind, "budgeted", low


def vector_violations(vector: VectorChange, policy: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge the gains of norms as rows of diagonal matrices; other vectors are recorded only."""
    if vector.ratio_max is not None and vector.ratio_max > policy["fatal_row_ratio"]:
        yield "gain_ratio", "fatal", vector.ratio_max
    if vector.ratio_min is not None and vector.ratio_min < policy["fatal_protected_row_ratio"]:
        yield "gain_ratio", "fatal", vector.ratio_min


def _quotient(value: float | None, base: float | None) -> float | None:
    """Return value over base: 1 if both are zero, None if only the base is."""
    assert value is not None
    assert base is not None
    if base == 0:
        return 1.0 if value == 0 else None
    return value / base


def _stable_rank_ratio(matrix: MatrixChange) -> float | None:
    """Return the quotient of stable ranks f^2/s^2; None where one of the matrices is zero."""
    sigma, frobenius = matrix.sigma, matrix.frobenius
    sigma_base, frobenius_base = matrix.sigma_base, matrix.frobenius_base
    if not (sigma and frobenius and sigma_base and frobenius_base):
        return None
    return float(((frobenius / sigma) / (frobenius_base / sigma_base)) ** 2)


def odd_norms(vectors: Sequence[VectorChange], policy: Mapping[str, Any]) -> list[SpectralViolation]:
    """Return the vectors whose norm left the range of rows: a warning each, not against the gate."""
    limit = policy["fatal_row_ratio"]
    measured = [own for own in vectors if own.state == MEASURED]
    ratios = [(own, _quotient(own.norm, own.norm_base)) for own in measured]
    return [
        SpectralViolation(own.name, own.group, "vector_norm", "warning", ratio)
        for own, ratio in ratios
        if ratio is None or not 1 / limit <= ratio <= limit
    ]


def is_explained(violation: SpectralViolation, down_to: float | None, grown_within: Collection[str]) -> bool:
    """Tell whether a violation need not mean damage.

    Args:
        violation: what was found.
        down_to: :attr:`Case.explained_down_to`. What vanished, is missing or not finite is never explained; nor are
            rows of embedding and head, because the text need not use their tokens.
        grown_within: tables some of whose rows grew, but none beyond the baseline's longest: rows that training had
            left small were given those of tokens in use.
    """
    value, rows = violation.value, violation.kind == "row_ratio" and violation.group in _PROTECTED_GROUPS
    if value is None:
        return False
    if rows:
        return value > 1.0 and violation.name in grown_within
    return down_to is not None and value >= down_to
