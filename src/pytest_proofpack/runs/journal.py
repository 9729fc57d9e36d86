"""What a process of a session notes down while it works, and what others may read of it: bounded, and no secrets."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pytest_proofpack.plan.pins import now

LIMIT = 1 << 20
"""Bytes that a log may have; of a longer one the older half goes."""
_TAIL_BYTES = 4000
_TAIL_LINES = 20
_SECRET = re.compile("TOKEN|SECRET|PASSW|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_SHORTEST_SECRET = 8


class Journal:
    """Appends to a file of its own, one JSON object a line: ``at`` (UTC), ``event``, and its facts.

    A log is a help and nothing depends on it: where it cannot be written, work goes on without.
    """

    def __init__(self, path: Path | None) -> None:
        """Write nothing yet.

        Args:
            path: the file; None to note down nothing.
        """
        self._path = path

    def note(self, event: str, **facts: object) -> None:
        """Append a line; values that JSON does not know become text."""
        if self._path is None:
            return
        line = without_secrets(json.dumps({"at": now(), "event": event, **facts}, default=str), os.environ)
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
            shorten(self._path)


def shorten(path: Path, limit: int = LIMIT) -> None:
    """Drop the older half of a log that has become longer than ``limit`` bytes; whoever appends to it goes on.

    Raises:
        OSError: it cannot be read or written.
    """
    if path.stat().st_size <= limit:
        return
    with path.open("r+b") as stream:
        stream.seek(-(limit // 2), os.SEEK_END)
        kept = stream.read().partition(b"\n")[2]
        stream.seek(0)
        stream.truncate()
        stream.write(kept)


def tail(path: Path, begin: int = 0) -> str:
    """Return the last 20 lines, 4 kB at most, of a log; empty where there is none.

    Args:
        path: the file.
        begin: look at nothing before this byte.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - _TAIL_BYTES, begin if begin <= size else 0))
            raw = stream.read(_TAIL_BYTES)
    except OSError:
        return ""
    lines = raw.decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
    return without_secrets("\n".join(lines).strip(), os.environ)


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return a text with the values of variables that are called like a secret replaced by their names."""
    for name, value in environment.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET.search(name):
            text = text.replace(value, f"<{name}>")
    return text
