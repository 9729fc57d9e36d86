"""Tables and lines for terminals, of text that is printable already."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence

from pytest_proofpack.common.words import printable

_GAP = "  "


def plain_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
    *,
    width: int | None = None,
    dispensable: Sequence[int] = (),
) -> Iterator[str]:
    """Yield the lines of a table, its columns as wide as their longest cells; and which columns it has no room for.

    Where names are told in the first column and there is no room for all columns, a name stands in a line of its own
    above the rows that are its.

    Args:
        headings: of the columns.
        rows: the cells; an empty one in the first column stands for the name above.
        right: columns that are aligned to the right.
        width: the terminal's; None if there is none, so that every column is shown.
        dispensable: columns that are left out of a narrow terminal, the first one first, but before them those that
            say the same in every row. The first column of the table names things, so only then it is left out.
    """
    cells = [[str(line[column]) for line in (headings, *rows)] for column in range(len(headings))]
    widths = [max(map(columns_of, column)) for column in cells]
    same = [column for column in dispensable if len({*cells[column][1:]} - {""}) == 1]
    shown, titled = _fitted(widths, same, dispensable, width)
    name = ""
    for position, line in enumerate((headings, *rows)):
        aligned = [_aligned(line[one], widths[one], right=one in right) for one in shown]
        if titled and position and line[0] not in ("", name):
            name = line[0]
            yield name
        yield _GAP.join(["", *aligned] if titled else aligned).rstrip()
    hidden = [column for column in range(len(headings)) if column not in (*shown, *([0] if titled else ()))]
    if hidden and width is not None:
        told = (headings[one] + (f" ({cells[one][1]})" if one in same else "") for one in hidden)
        yield from folded(f"no room for: {', '.join(told)}", width)


def folded(line: str, width: int | None, indent: int = 2) -> list[str]:
    """Return a line as printable lines of at most ``width`` columns, the further ones indented deeper than the first.

    Words are kept whole, as names, digests and paths are for copying, and the further lines are indented less where
    that helps. Only a word for which a line has no room is broken: a terminal would go on with it, and with what comes
    after it, where our own lines begin.
    """
    line = printable(line)
    if width is None or columns_of(line) <= width:
        return [line]
    wide = _padded(line)
    width -= wide != line  # a character's second column may come to the next line
    longest = max(map(len, wide.split()), default=0)
    begin = " " * min(len(line) - len(line.lstrip()) + indent, max(2, width - longest))
    room = max(width - len(begin), 1)
    broken = re.sub(rf"[^ ]{{{room}}}(?=[^ ])", r"\g<0> ", wide) if longest > room else wide
    lines = textwrap.wrap(broken, width, subsequent_indent=begin, break_long_words=False, break_on_hyphens=False)
    return [part.replace(_SECOND_COLUMN, "") for part in lines]


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return len(text) if text.isascii() else len(_padded(text))


_SECOND_COLUMN = "\0"
"""Stands after a character that takes two columns, while lengths are counted."""


def _padded(text: str) -> str:
    if text.isascii():
        return text
    return "".join(
        character + _SECOND_COLUMN if unicodedata.east_asian_width(character) in {"W", "F"} else character
        for character in text
    )


def all_folded(lines: Iterable[str], width: int | None, indent: int = 2) -> Iterator[str]:
    """Yield the lines of every line; see :func:`folded`."""
    for line in lines:
        yield from folded(line, width, indent)


def _aligned(cell: str, width: int, *, right: bool) -> str:
    room = " " * (width - columns_of(cell))
    return room + cell if right else cell + room


def _fitted(
    widths: Sequence[int], same: Sequence[int], dispensable: Sequence[int], width: int | None
) -> tuple[list[int], bool]:
    """Return which columns fit, and whether the first one stands in lines of its own instead."""
    shown = list(range(len(widths)))

    def is_wide(indent: int = 0) -> bool:
        return width is not None and indent + sum(widths[one] + len(_GAP) for one in shown) - len(_GAP) > width

    for column in same:
        if is_wide():
            shown.remove(column)
    others = [column for column in dispensable if column not in (0, *same)]
    titled = is_wide() and 0 in dispensable and 0 in shown and not {*shown} <= {0, *others}
    if titled:
        shown.remove(0)
    for column in others:
        if is_wide(len(_GAP) if titled else 0):
            shown.remove(column)
    return shown, titled
