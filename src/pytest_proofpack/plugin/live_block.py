"""A few lines below whatever else a terminal shows, redrawn in place."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence

import pytest

CLEAR_BELOW = "\x1b[J"
"""What clears a terminal from the cursor on."""


def watched(config: pytest.Config) -> bool:
    """Tell whether output goes to a terminal that somebody looks at, and that nobody but pytest writes to."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty() or os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        return False
    return config.getoption("capture") != "no" and not config.getoption("usepdb")


class LiveBlock:
    """Draws lines and leaves the cursor where it was, so that pytest goes on as if they were not there.

    What pytest writes clears them first; whoever draws them does so again when there is something to show. To be made
    between items: where an item runs in this process, its output is captured, and the lines are drawn past that.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._writer = config.get_terminal_writer()
        self._terminal = os.fdopen(os.dup(self._writer._file.fileno()), "w", encoding="utf-8", errors="replace")
        self._write_raw = self._writer.write_raw
        self._drawn = False
        self._lock = threading.RLock()  # without workers, the heart beats on a thread of its own
        setattr(self._writer, "write_raw", self._make_room)  # noqa: B010 - of this writer only

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of those before; they are cut where the terminal ends."""
        columns, rows = shutil.get_terminal_size()
        shown = [self._writer.markup(line[: columns - 1], bold=at == 0) for at, line in enumerate(lines[: rows - 2])]
        with self._lock:
            if threading.current_thread() is threading.main_thread():  # no item runs here, so nothing is captured
                self._writer.flush()
            column = self._writer.width_of_current_line % columns
            back = f"\x1b[{len(shown)}A\r" + (f"\x1b[{column}C" if column else "")
            self._terminal.write(CLEAR_BELOW + "".join(f"\r\n{line}" for line in shown) + back)
            self._terminal.flush()
            self._drawn = True

    def close(self) -> None:
        """Clear what is drawn, for good."""
        with self._lock:
            self._make_room("", flush=True)
            setattr(self._writer, "write_raw", self._write_raw)  # noqa: B010
            self._terminal.close()

    def _make_room(self, text: str, *, flush: bool = False) -> None:
        with self._lock:
            self._write_raw(f"{CLEAR_BELOW}{text}" if self._drawn else text, flush=flush)
            self._drawn = False
