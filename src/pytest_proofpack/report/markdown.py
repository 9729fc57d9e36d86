"""Markdown that nothing hostile gets out of: what others wrote stands in code spans, all else is ours.

In a code span GitHub and GitLab link no name, no number and no address, so nobody is notified and nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_proofpack.common.words import printable

_SPECIAL = "`<>&|"


def code(text: str) -> str:
    """Return a code span; what could end it, or start HTML or a table cell, is written as an escape."""
    return f"`{printable(text, also=_SPECIAL)}`" if text else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Return the lines of a table; cells are Markdown already, and hold no line break.

    Args:
        headings: of the columns.
        rows: the cells.
        right: columns that are aligned to the right.
    """
    aligned = set(right)
    rule = ["---:" if index in aligned else "---" for index in range(len(headings))]
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]
