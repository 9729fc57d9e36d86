"""How names and numbers are written in every report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_proofpack.common.words import printable

ABSENT = "–"
"""Stands where there is no value."""

_GATE_SUFFIXES = ("_acceptable", "_pass", "_stable", "_ok")
_MAX_DIGITS = 12


def number(value: float) -> str:
    """Return a number with four significant digits; integers are exact."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"


def signed(value: float) -> str:
    """Return a difference with its sign and four decimals (in exponent form where they would not show it)."""
    if value == 0:
        return "0"
    return f"{value:+.4f}" if 1e-4 <= abs(value) < 1e4 else f"{value:+.1e}"


def ratio(value: float, beside: float | None = None) -> str:
    """Return a ratio with four decimals, or with as many as it takes to tell it from the limit ``beside``.

    Ratios of 100 and more have one decimal, those of 10,000 and more three significant digits.
    """
    if value >= 1e4:
        return f"{value:.3g}"
    digits = 4 if value < 100 else 1
    while (
        beside is not None
        and value != beside
        and digits < _MAX_DIGITS
        and f"{value:.{digits}f}" == f"{beside:.{digits}f}"
    ):
        digits += 1
    return f"{value:.{digits}f}"


def interval(bounds: Sequence[float], beside: float | None = None) -> str:
    """Return an interval of ratios, for example ``1.0121 to 1.0189``."""
    low, high = bounds
    return f"{ratio(low)} to {ratio(high, beside)}"


def row_ratio(row: Mapping[str, Any], absent: str = ABSENT) -> str:
    """Return the ratio of a row of a verdict; the row of a certificate without a finite loss has none."""
    return ratio(row["ratio"]) if "ratio" in row else absent


def short_gate(name: str) -> str:
    """Return a gate's or a detector's name without its verb: ``invariants_pass`` becomes ``invariants``."""
    for suffix in _GATE_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def unique(items: Iterable[str]) -> list[str]:
    """Return the distinct items in order of first appearance."""
    return list(dict.fromkeys(items))


def scalar(value: object) -> str:
    """Return the text of one JSON scalar, safe to show (escaping for HTML is the template's work)."""
    match value:
        case None:
            return ABSENT
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return number(value)
        case _:
            return printable(str(value))


def thousands(value: int) -> str:
    """Return a count with commas between its thousands."""
    return f"{value:,}"


def inline(value: object) -> str:
    """Return the text of any JSON value on one line: items after commas, nested ones in parentheses."""
    match value:
        case Mapping():
            return listing([f"{printable(str(key))} {_nested(item)}" for key, item in value.items()])
        case list():
            return listing([_nested(item) for item in value])
        case _:
            return scalar(value)


def _nested(value: object) -> str:
    return f"({inline(value)})" if isinstance(value, Mapping | list) else scalar(value)


def listing(values: Sequence[object], limit: int = 12) -> str:
    """Return values separated by commas; beyond ``limit`` they are only counted."""
    shown = ", ".join(_nested(value) for value in values[:limit])
    hidden = len(values) - limit
    return f"{shown} … and {hidden} more" if hidden > 0 else shown or ABSENT
