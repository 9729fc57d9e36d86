"""What the sub-commands write goes through here, last of all, so that no word of a stranger's is obeyed.

Nothing is imported at the top but what the interpreter has loaded: see :mod:`pytest_proofpack.commands.main`.
"""

import io
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


class HarmlessStream(io.TextIOBase):
    """Writes whole lines to another stream, without what a terminal or a CI system would obey.

    What is escaped is escaped as in JSON, so that JSON still says the same.
    """

    def __init__(self, stream: "TextIO") -> None:
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        """Write every line that is whole by now."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._put(line, "\n")
        return len(text)

    def flush(self) -> None:
        """Write what has been begun, too."""
        begun, self._begun = self._begun, ""
        self._put(begun, "")
        self._stream.flush()

    def isatty(self) -> bool:
        """Tell whether the other one is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the other one's."""
        return self._stream.fileno()

    def _put(self, line: str, end: str) -> None:
        from pytest_proofpack.common.words import printable

        text = line.removesuffix("\r")  # of CSV
        self._stream.write(printable(text, as_json=True) + line[len(text) :] + end)


@contextmanager
def harmless_output() -> "Iterator[None]":
    """Let standard output and standard error be harmless inside of this block; see :class:`HarmlessStream`."""
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(HarmlessStream, kept)
    try:
        yield
    finally:
        made = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = kept
        for stream in made:
            stream.flush()


def columns(stream: "TextIO | None" = None) -> int | None:
    """Return how many columns the terminal has that standard output, or another stream, is; None if it is none."""
    import shutil

    return shutil.get_terminal_size().columns if (stream or sys.stdout).isatty() else None


def tell(text: str, indent: int = 2, stream: "TextIO | None" = None) -> None:
    """Print a line for people, folded on a terminal, which would go on with it where our own lines begin.

    Args:
        text: the line; a message that has several is printed with the further ones indented.
        indent: how much deeper further lines of a line begin.
        stream: where it goes; None for standard output.
    """
    from pytest_proofpack.common.plain_table import folded
    from pytest_proofpack.common.words import message_lines

    for line in message_lines(text):
        print(*folded(line, columns(stream), indent), sep="\n", file=stream)
