"""Words for people: text that is safe to show, names, numbers, sizes, paths as one would type them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ABSENT = "–"
"""Stands where there is no value."""
_MAX_DIGITS = 12
_LONGEST_LINE = 300


def printable(text: str, also: str = "") -> str:
    """Return ``text`` with every character that could mislead a reader or a terminal as a backslash escape.

    Control characters, line breaks, direction marks, lone surrogates and exotic spaces are not printable in
    Python's sense; ``also`` names further characters to escape.
    """
    if text.isprintable() and not any(character in text for character in also):
        return text
    return "".join(
        _escaped(character) if character in also or not character.isprintable() else character for character in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shortened(text: str, longest: int) -> str:
    """Leave out the middle of a text that is too long: it begins with what it is about, and ends with what is wrong."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail]} ... {text[-tail:]}"


def first_of(texts: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first of many texts, and how many there are besides: ``a, b and 3 more``."""
    hidden = len(texts) - most
    more = f"{between.replace(', ', ' ')}and {hidden} more" if hidden > 0 else ""
    return between.join(texts[:most]) + more


def first_line(error: BaseException) -> str:
    """Return the beginning of what an error of others says, on one line: two, where the first ends in a colon."""
    first, _, rest = str(error).strip().partition("\n")
    if first.endswith(":"):
        first = f"{first} {rest.strip().partition(chr(10))[0]}"
    return first[:_LONGEST_LINE]


def error_line(error: BaseException) -> str:
    """Return the kind of an error of others and the beginning of what it says: ``ValueError: no such key``."""
    return f"{type(error).__name__}: {first_line(error)}"


def shown(path: Path) -> str:
    """Return a path as a person in the current directory would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def data_size(size: float) -> str:
    """Return bytes of files for people, in decimal units: ``14.5 GB``. For memory there is :func:`memory_size`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def memory_size(size: float) -> str:
    """Return bytes of memory for people, in GiB (2^30 bytes), the unit of ``--proofpack-gpu-memory``: ``14.5 GiB``.

    One decimal; below 1 GiB two significant digits.
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**30:.2g} GiB"


def duration(seconds: float) -> str:
    """Return a duration as people say it, to the nearest; for what is still to come there is :func:`time_left`."""
    if 0 < seconds < 1:
        return f"{seconds:.1g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def time_left(seconds: float) -> str:
    """Return how long something will still take: ``about 5 s left``, rounded up: never less than is left."""
    if seconds < 1:
        return "less than a second left"
    if seconds <= 90:
        return f"about {math.ceil(seconds)} s left"
    if seconds <= 90 * 60:
        return f"about {math.ceil(seconds / 60)} min left"
    return f"about {math.ceil(seconds / 360) / 10:.1f} h left"


def moment(time: datetime) -> str:
    """Return a time of a known zone as UTC: ``2026-01-31T12:00:00Z``."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def number(value: float) -> str:
    """Return a number with four significant digits; integers are exact."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"


def limit(value: float) -> str:
    """Return a limit, or another threshold, as who set it would write it: ``1.1``; no digit of it is left out."""
    return str(value) if isinstance(value, int) else f"{value:.10g}"


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
