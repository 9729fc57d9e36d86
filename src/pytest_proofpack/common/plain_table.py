"""Tables for terminals, of cells that are printable already."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

_GAP = "  "


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Yield the lines of a table, its columns as wide as their longest cells.

    Args:
        headings: of the columns.
        rows: the cells.
        right: columns that are aligned to the right.
    """
    lines = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        aligned = (
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield _GAP.join(aligned).rstrip()
