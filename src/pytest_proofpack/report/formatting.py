"""How names and numbers are written in every report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_proofpack.common.words import ABSENT, limit, number, printable, ratio, scalar, signed
from pytest_proofpack.guards.spectral_evidence import GROUP_WORDS

__all__ = [
    "ABSENT", "counted", "finite", "group_words", "inline", "interval", "limit", "limit_percent", "listing", "number",
    "percent", "printable", "ratio", "row_ratio", "scalar", "sentence_case", "signed", "thousands", "unique",
]  # fmt: skip


_MOST_DECIMALS = 12


def interval(bounds: Sequence[float], beside: float | None = None) -> str:
    """Return an interval of ratios, for example ``1.0121 to 1.0189``."""
    low, high = bounds
    return f"{ratio(low)} to {ratio(high, beside)}"


def limit_percent(ratio_limit: float) -> str:
    """Return by how many per cent a limit of ratios lets perplexity grow."""
    return limit(100.0 * (ratio_limit - 1.0))


def row_ratio(row: Mapping[str, Any], absent: str = ABSENT) -> str:
    """Return the ratio of a row of a verdict; the row of a certificate without a finite loss has none."""
    return ratio(row["ratio"]) if "ratio" in row else absent


def unique(items: Iterable[str]) -> list[str]:
    """Return the distinct items in order of first appearance."""
    return list(dict.fromkeys(items))


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


def listing(values: Sequence[object], most: int = 12) -> str:
    """Return values separated by commas; beyond ``most`` they are only counted."""
    shown = ", ".join(_nested(value) for value in values[:most])
    hidden = len(values) - most
    return f"{shown} … and {hidden} more" if hidden > 0 else shown or ABSENT


def group_words(name: str) -> str:
    """Return what a group of parameters is called."""
    return GROUP_WORDS.get(name, printable(name))


def percent(share: float, beside: float | None = None) -> str:
    """Return a share in percent: one decimal, two below 1 %, or as many as show it and tell it from ``beside``."""
    digits = 1 if share == 0 or abs(share) >= 0.01 else 2

    def text(value: float) -> str:
        return f"{100.0 * value:.{digits}f}"

    while digits < _MOST_DECIMALS and (
        (share != 0 and float(text(share)) == 0)
        or (beside is not None and share != beside and text(share) == text(beside))
    ):
        digits += 1
    shown = text(share)
    return shown.removesuffix(".0") if digits == 1 else shown


def counted(count: int, one: str, several: str = "") -> str:
    """Return a count with its noun: ``1 gate``, ``3 gates``."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def sentence_case(text: str) -> str:
    """Return a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def finite(value: object) -> float | None:
    """Return a finite number as it is, and None for anything else that JSON may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
