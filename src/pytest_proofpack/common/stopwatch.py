"""Wall time of the phases of some work: for people and benchmarks, outside of every digest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_listeners: list[Callable[[str], None]] = [lambda _name: None]


def listen(listener: Callable[[str], None]) -> None:
    """Have the name of every phase of this process told as it begins, in place of whoever listened before."""
    _listeners[:] = [listener]


def tell(phase: str) -> None:
    """Have it told that a phase begins whose time nobody takes."""
    _listeners[-1](phase)


@dataclass
class Stopwatch:
    """Wall time by phase, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the body to the phase ``name``."""
        tell(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
