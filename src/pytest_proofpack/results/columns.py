"""Tables of results for people: the same cells for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pytest_proofpack.common.plain_table import plain_table
from pytest_proofpack.common.words import ABSENT, ratio
from pytest_proofpack.pack.verified import EditFacts
from pytest_proofpack.report.formatting import interval
from pytest_proofpack.report.markdown import code, table


@dataclass(frozen=True)
class Columns:
    """The columns of a table, by their positions.

    Attributes:
        headings: what stands above them.
        right: those that are aligned to the right.
        dispensable: those that a narrow terminal goes without, see :func:`plain_table`.
        names: those that hold names which somebody else has chosen; Markdown has them as code.
    """

    headings: tuple[str, ...]
    right: Collection[int]
    dispensable: tuple[int, ...]
    names: Collection[int] = (0, 1)

    def text(self, rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
        """Yield the lines of a table of printable cells for a terminal; None where there is none."""
        return plain_table(self.headings, rows, self.right, width=width, dispensable=self.dispensable)

    def markdown(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """Return the lines of the same table as Markdown."""
        marked = [[code(cell) if at in self.names else cell for at, cell in enumerate(row)] for row in rows]
        return table(self.headings, marked, self.right)


def ratio_cells(edit: EditFacts) -> tuple[str, str]:
    """Return an edit's ratio and its interval, with the digits that tell them from its limit."""
    return (
        ABSENT if edit.ratio is None else ratio(edit.ratio, edit.limit),
        ABSENT if edit.interval is None else interval(edit.interval, edit.limit),
    )
