"""Importing torch and transformers in less time: for seconds, nothing else happens in a process that is to compute."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Look for no garbage while something large is imported.

    Nothing of what importing makes is garbage, and to look for some a thousand times takes a fifth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
