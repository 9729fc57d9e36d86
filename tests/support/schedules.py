"""Small plans for the scheduler, and what every schedule has to keep."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.simulation import Outcome, Work
from pytest_proofpack.scheduling.costs import Job, Load


def work(**models: tuple[float, int, float, int]) -> Work:
    """Return a plan: for each model (seconds of a load, devices, seconds of an item, items)."""
    loads = [Load(name, seconds, devices) for name, (seconds, devices, _, _) in models.items()]
    items = [(name, seconds) for name, (_, _, seconds, count) in models.items() for _ in range(count)]
    return Work([Job(index, name, "any", seconds) for index, (name, seconds) in enumerate(items)], loads)


def require_exclusive_devices(outcome: Outcome) -> None:
    """Fail if a device was used by two items at once."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for span in outcome.timeline:
        for device in (span.slot, *span.borrowed):
            spans.setdefault(device, []).append((span.begin, span.end))
    for used in spans.values():
        used.sort()
        assert all(end <= begin + 1e-9 for (_, end), (begin, _) in pairwise(used))
