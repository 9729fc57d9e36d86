"""How far up a ladder a model can be taken: by bisection, from readings of certificates on windows of tuning's own.

Pure: what reads a rung is a function of the caller's. The rule that a rung has to meet is one for all edits and gates.
A certificate must pass every gate, and no gate whose number depends on the windows may have been brought nearer to its
limit than :data:`MARGIN`. The run judges other windows: a rung right at a limit here would fail there every other
time, and half of the room is many times what readings differ by from draw to draw (docs/how-to/suite.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError

MARGIN = 0.5
"""The share of the room between no change and a limit that tuned parameters may take."""
MOST_CERTIFICATES = 8
"""No edit of a model takes more of them."""


@dataclass(frozen=True)
class Reading:
    """What one certificate read.

    Attributes:
        failed_gates: the gates that it fails.
        strains: how near it came to limits that depend on the windows, by criterion: 0 for no change, 1 for the limit.
        ratio: perplexity over the baseline's; None if it has none.
        interval: of the ratio, at the policy's confidence; None likewise.
        kl_mean: mean divergence of the next token's distribution, in nats per token; None if it was not comparable.
    """

    failed_gates: tuple[str, ...]
    strains: Mapping[str, float]
    ratio: float | None
    interval: tuple[float, float] | None
    kl_mean: float | None

    @property
    def strain(self) -> float:
        """The largest strain; infinite if a gate fails."""
        return math.inf if self.failed_gates else max(self.strains.values(), default=0.0)

    @property
    def burden(self) -> tuple[float, float]:
        """What readings of equally strong edits are compared by: the strain, then the divergence."""
        return self.strain, math.inf if self.kl_mean is None else self.kl_mean

    @property
    def holds(self) -> bool:
        """Whether the rung keeps the distance that is demanded."""
        return self.strain <= MARGIN

    @property
    def beyond_margin(self) -> tuple[str, ...]:
        """The criteria that came nearer to their limit than is allowed."""
        return tuple(name for name, strain in self.strains.items() if strain > MARGIN)

    def to_json(self) -> JsonObject:
        """Return what the tuned-parameters file says of it; a strain that is not finite is null."""
        return {
            "holds": self.holds,
            "failed_gates": list(self.failed_gates),
            "ratio": self.ratio,
            "interval": None if self.interval is None else list(self.interval),
            "kl_mean": self.kl_mean,
            "strains": {name: value if math.isfinite(value) else None for name, value in self.strains.items()},
        }


@dataclass(frozen=True)
class Step:
    """One certificate of a climb: at which place, on which rung, both counted from 0, and what it read."""

    place: int
    rung: int
    reading: Reading


@dataclass(frozen=True)
class Climb:
    """A finished climb.

    Attributes:
        steps: every certificate, in the order in which they were made.
        chosen: the strongest rung that holds; None if none does.
        beyond: the next stronger rung at the same place; None at the top.
    """

    steps: tuple[Step, ...]
    chosen: Step | None
    beyond: Step | None


def require_climbable(name: str, places: int, rungs: int) -> None:
    """Make sure that a ladder has rungs, and not so many that an edit would take too many certificates.

    Raises:
        ConfigurationError: it has none, or too many.
    """
    if places < 1 or rungs < 1:
        raise ConfigurationError(f"edit {name!r}: its ladder has no rung for this model.")
    needed = places - 1 + rungs.bit_length()
    if needed > MOST_CERTIFICATES:
        raise ConfigurationError(
            f"edit {name!r}: its ladder of {rungs} rungs at {places} places would take {needed} certificates; at most "
            f"{MOST_CERTIFICATES} are made. Leave rungs or places out."
        )


def climb(places: int, rungs: int, read: Callable[[int, int], Reading]) -> Climb:
    """Find the strongest rung that holds.

    Every place is tried on the middle rung, and the one that takes it best is kept; there, the rungs are bisected.
    Where a stronger rung would read better than a gentler one, the result may not be the strongest, but it holds.

    Args:
        places: how many places there are.
        rungs: how many rungs.
        read: makes the certificate of a place and a rung and returns what it read.
    """
    middle = rungs // 2
    steps = [Step(place, middle, read(place, middle)) for place in range(places)]
    best = min(steps, key=lambda step: step.reading.burden)
    by_rung = {middle: best}
    low, high = (middle, rungs) if best.reading.holds else (-1, middle)
    while high - low > 1:
        rung = (low + high + 1) // 2
        step = by_rung[rung] = Step(best.place, rung, read(best.place, rung))
        steps.append(step)
        low, high = (rung, high) if step.reading.holds else (low, rung)
    return Climb(tuple(steps), by_rung.get(low), by_rung.get(high))
