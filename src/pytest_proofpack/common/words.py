"""Words for people: text that is safe to show, names, numbers, sizes, paths as one would type them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

ABSENT = "–"
"""Stands where there is no value."""
_MAX_DIGITS = 12
_LONGEST_LINE = 300


def printable(text: str, also: str = "", *, as_json: bool = False) -> str:
    """Return ``text`` with everything that could mislead a reader, a terminal or a CI system as a backslash escape.

    Control characters, line breaks, direction marks, lone surrogates and exotic spaces are not printable in Python's
    sense; what shows nothing at all (:data:`_UNSEEN`) and letters that run leftwards, which move what stands beside
    them, are not in ours. What a log takes for a command is broken: ``::`` that begins a text (GitHub), ``##[`` and
    ``##vso[`` anywhere (GitHub, Azure, TeamCity). What has been made printable stays as it is.

    Args:
        text: anything.
        also: further characters to escape.
        as_json: write escapes as JSON does, for a text that may be JSON.
    """
    escape = _escaped_as_json if as_json else _escaped
    if not (text.isascii() and text.isprintable()) or any(character in text for character in also):
        text = "".join(escape(one) if one in also or _misleads(one) else one for one in text)
    return _COMMAND.sub(lambda found: f"{found[1] or ''}{escape(found[0][-1])}", text)


def printable_lines(lines: Iterable[str]) -> str:
    """Return lines as one text, each made printable; a tab is as wide as it is."""
    return "\n".join(printable(line.expandtabs()) for line in lines)


def message_lines(text: str) -> list[str]:
    """Return the lines of a message that may have several, safe to show; only the first begins where ours do."""
    first, *further = text.split("\n")
    return [printable(first), *(printable(line if line.startswith("  ") else f"  {line}") for line in further)]


_COMMAND = re.compile(r"\A( *):(?=:)|#(?=#\w*\[)")
_LEFTWARDS = frozenset({"R", "AL", "AN"})
"""Bidirectional classes of letters and digits that are written from right to left (Unicode, UAX 9)."""
_UNSEEN = frozenset(
    (
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, *range(0xFE00, 0xFE10), 0xFFA0),
        *range(0xE0100, 0xE01F0),
        *(0x2800, 0x16FE4, 0x1D159, *range(0x13441, 0x13447)),
    )
)
"""Characters that show nothing, though Python calls them printable.

First those that are ignored where they cannot be shown (Unicode, ``Default_Ignorable_Code_Point``, of which Python does
not tell): joiners, fillers, vowels without a form, variation selectors; then blanks of braille and of other scripts.
"""


def _misleads(character: str) -> bool:
    if character.isascii():
        return not character.isprintable()
    return (
        not character.isprintable() or ord(character) in _UNSEEN or unicodedata.bidirectional(character) in _LEFTWARDS
    )


def _escaped(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _escaped_as_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def shortened(text: str, longest: int) -> str:
    """Leave out the middle of a text that is too long: it begins with what it is about, and ends with what is wrong."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail]} ... {text[-tail:]}"


def likeliest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return which of the names that there are somebody may have meant; None if none is like it.

    Args:
        name: what was written.
        known: the names that there are.
        cutoff: how like it has to be at least, from 0 to 1, as :func:`difflib.get_close_matches` counts.
    """
    import difflib  # only where something was misspelled

    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


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
