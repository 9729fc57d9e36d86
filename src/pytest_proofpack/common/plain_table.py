"""Tables for terminals, of cells that are printable already."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence

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

    Args:
        headings: of the columns.
        rows: the cells.
        right: columns that are aligned to the right.
        width: the terminal's; None if there is none, so that every column is shown.
        dispensable: columns that are left out of a narrow terminal, the first one first, but before them those that
            say the same in every row. The first column of the table names things, so only then it is left out.
    """
    cells = [[str(line[column]) for line in (headings, *rows)] for column in range(len(headings))]
    widths = [max(map(len, column)) for column in cells]
    same = [column for column in dispensable if len({*cells[column][1:]} - {""}) == 1]
    hidden: list[int] = []
    for column in (*same, *(one for one in dispensable if one not in (0, *same))):
        shown = [one for one in range(len(headings)) if one not in hidden]
        if width is None or sum(widths[one] for one in shown) + len(_GAP) * (len(shown) - 1) <= width:
            break
        hidden.append(column)
    for line in (headings, *rows):
        aligned = (
            cell.rjust(widths[index]) if index in right else cell.ljust(widths[index])
            for index, cell in enumerate(line)
            if index not in hidden
        )
        yield _GAP.join(aligned).rstrip()
    if hidden and width is not None:
        told = (headings[one] + (f" ({cells[one][1]})" if one in same else "") for one in sorted(hidden))
        yield from textwrap.wrap(f"no room for: {', '.join(told)}", width, subsequent_indent=_GAP)
