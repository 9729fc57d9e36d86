"""The forest plot of a run: ratio, interval and limit of every certificate, on one logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.report import formatting
from pytest_proofpack.report.scales import Scale, logarithmic

WIDTH = 220
_LEFT, _RIGHT = 8, WIDTH - 14
_WIDEST = 6.0
"""The axis ends where the logarithm of a ratio is so many times the limit's; what lies beyond has an arrow."""


@dataclass(frozen=True)
class Plot:
    """One certificate on the axis; coordinates are SVG units in a box of ``width`` x 18.

    ``beyond`` is an arrow in place of circle and bar where the ratio lies off the axis; ``ratio`` is None without one.
    """

    unchanged: str
    limit: str
    sign: str
    summary: str
    low: str = ""
    high: str = ""
    ratio: str | None = None
    beyond: str = ""
    width: int = WIDTH


@dataclass(frozen=True)
class Axis:
    """The axis that all certificates of a run share.

    Attributes:
        scale: from a ratio to its place.
        low, high: its ends.
        limits: the limits of the run's policies, ascending.
    """

    scale: Scale
    low: float
    high: float
    limits: tuple[float, ...]

    @property
    def unchanged(self) -> str:
        """Where 1 is."""
        return f"{self.scale.at(1.0):.1f}"

    @property
    def last_limit(self) -> str:
        """Where the highest limit is."""
        return f"{self.scale.at(self.limits[-1]):.1f}"

    @property
    def words(self) -> str:
        """What the axis shows, for people."""
        limits = ", ".join(map(formatting.limit, self.limits))
        shown = f"from {formatting.number(float(f'{self.low:.3g}'))} to {formatting.number(float(f'{self.high:.3g}'))}"
        return f"ratios {shown}, logarithmic; grey line: 1, unchanged; red line: limit{f' {limits}' if limits else ''}"


def forest_axis(rows: Sequence[Mapping[str, Any]], limits: Sequence[float]) -> Axis:
    """Return an axis for the rows of a verdict: around 1 and the limits, as far as ratios go, but not much farther."""
    most = max([1.1, *limits])
    farthest = _WIDEST * math.log(most)
    ends = [value for row in rows for value in (row.get("ratio"), *row.get("interval", ())) if value is not None]
    near = [math.log(value) for value in ends if value > 0 and abs(math.log(value)) <= farthest]
    low, high = math.exp(min([0.0, *near])), math.exp(max([math.log(most) * 1.3, *near]))
    return Axis(logarithmic(low, high, _LEFT, _RIGHT), low, high, tuple(sorted(set(limits))))


def forest_plot(axis: Axis, row: Mapping[str, Any], limit: float | None, sign: str) -> Plot:
    """Return the plot of a verdict's row."""
    at = axis.scale.at
    ratio, interval = row.get("ratio"), row.get("interval")
    limit_at = f"{at(limit if limit is not None else max(axis.limits, default=axis.high)):.1f}"
    if ratio is None or interval is None:
        return Plot(axis.unchanged, limit_at, sign, "no ratio")
    low, high = (min(axis.high * 1.02, max(axis.low / 1.02, bound)) for bound in interval)
    summary = f"ratio {formatting.ratio(ratio)}, interval {formatting.interval(interval)}"
    beyond = ""
    if ratio > axis.high:
        beyond = f"M{_RIGHT - 8} 4L{_RIGHT + 4} 9L{_RIGHT - 8} 14z"
    elif ratio < axis.low:
        beyond = f"M{_LEFT + 8} 4L{_LEFT - 4} 9L{_LEFT + 8} 14z"
    ends = f"{at(low):.1f}", f"{at(high):.1f}"
    return Plot(axis.unchanged, limit_at, sign, summary, *ends, ratio=f"{at(ratio):.1f}", beyond=beyond)
