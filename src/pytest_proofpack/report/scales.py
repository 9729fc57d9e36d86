"""Axes of the figures: from values to coordinates, with round numbers to label them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pytest_proofpack.common.words import number

_MARGIN = 0.07
_LEAST_SPAN = 0.02
"""What differs by less, relative to its size, is drawn as good as equal: rounding would look like an effect."""
_SMALLEST = 1e-300
_MOST_DIGITS = 17
"""So many tell any two numbers apart."""


@dataclass(frozen=True)
class Frame:
    """Where a figure's axes stand in its picture, in SVG units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


@dataclass(frozen=True)
class Scale:
    """An axis: where a value stands, and the values to be labelled."""

    at: Callable[[float], float]
    ticks: tuple[float, ...]

    @property
    def labelled(self) -> list[tuple[float, str]]:
        """The values with their labels: as numbers are written, or with as many digits as tell them apart."""
        texts = [number(tick) for tick in self.ticks]
        digits = 5
        while len(set(texts)) < len(texts) and digits <= _MOST_DIGITS:
            texts = [f"{tick:.{digits}g}" for tick in self.ticks]
            digits += 1
        return list(zip(self.ticks, texts, strict=True))


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Return an axis from ``low`` to ``high`` with a little room at both ends, between two coordinates."""
    least = _LEAST_SPAN * abs(high)
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    span = high - low or 1.0
    low, high = low - _MARGIN * span, high + _MARGIN * span
    return Scale(lambda value: start + (value - low) / (high - low) * (end - start), tuple(_round_steps(low, high)))


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Return a logarithmic axis; what is not above 0 stands at its lower end."""
    below, above = (math.log10(max(value, _SMALLEST)) for value in (low, high))
    span = above - below or 1e-3
    first, last = below - _MARGIN * span, above + _MARGIN * span

    def at(value: float) -> float:
        power = math.log10(max(value, _SMALLEST))
        return start + min(1.0, max(0.0, (power - first) / (last - first))) * (end - start)

    return Scale(at, tuple(_powers(first, last)))


def _round_steps(low: float, high: float) -> Iterator[float]:
    """Yield about four round numbers between ``low`` and ``high``."""
    rough = (high - low) / 4
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    for multiple in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield multiple * step


def _powers(first: float, last: float) -> Iterator[float]:
    """Yield round numbers between two powers of ten, at most about six."""
    factors = (1,) if last - first > 3 else (1, 3) if last - first > 1.5 else (1, 2, 5)
    step = max(1, math.ceil((last - first) / 6))
    for power in range(math.floor(first), math.ceil(last) + 1):
        for factor in factors if power % step == 0 else ():
            if first <= math.log10(factor) + power <= last:
                yield factor * 10.0**power
