"""What a terminal shows of what is written to it: enough of one for what pytest and we write."""

from __future__ import annotations

import re

_PIECE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")


def screen(written: str, columns: int = 80) -> list[str]:
    """Return the lines that are to be seen in the end, on a terminal that is high enough."""
    rows: list[str] = [""]
    row = column = 0
    for piece in _PIECE.finditer(written):
        text, count = piece[0], int(piece[1]) if (piece[1] or "").isdecimal() else 1
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
        elif piece[2] == "A":
            row -= count
        elif piece[2] == "C":
            column += count
        elif piece[2] == "J":
            rows[row:] = [rows[row][:column]]
        elif piece[2] is None:
            for letter in text:
                if column == columns:
                    row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
                rows[row] = rows[row][:column].ljust(column) + letter + rows[row][column + 1 :]
                column += 1
        rows += [""] * (row + 1 - len(rows))
    return [line.rstrip() for line in rows]


def frames(written: str) -> list[list[str]]:
    """Return what was drawn below everything else, one list of lines for each time."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\r", "", written)
    return [drawn[1].split("\n")[1:] for drawn in re.finditer(r"\x1b\[J((?:\n[^\n\x1b]+)+)\x1b\[[0-9]+A", plain)]
