"""Geometry of the two figures of a certificate's page. The templates draw them as inline SVG.

Drawn by hand and not by a plotting library: the same bytes everywhere, colours that follow the reader's light or
dark scheme, text that can be selected, and no import that costs more than the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.report import formatting
from pytest_proofpack.report.scales import Frame, linear

WIDTH = 400
"""Narrow, so that its text can be read on a telephone, where it is drawn smaller."""
_INTERVAL_HEIGHT = 74
_LOSSES = Frame(WIDTH, height=220, left=46, right=WIDTH - 104, top=12, bottom=180)
_MAX_POINTS = 400
_LABEL_GAP = 15.0
_SMALLEST_RATIO = 1e-300


@dataclass(frozen=True)
class Mark:
    """A labelled position on an axis; ``label_at`` differs from ``at`` where labels had to move apart."""

    at: str
    text: str
    kind: str
    label_at: str = ""


@dataclass(frozen=True)
class LossFigure:
    """Sorted loss differences: x is the share of windows, y the difference in nats per token.

    ``points`` is the data of one SVG path; coordinates are SVG units in the picture of ``frame``.
    """

    points: str
    x_marks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]
    levels: tuple[Mark, ...]
    quantile: str
    summary: str
    frame: Frame = _LOSSES


@dataclass(frozen=True)
class IntervalFigure:
    """The ratio with its interval on a logarithmic axis, beside 1 and the limit."""

    unchanged: str
    limit: Mark
    low: str
    high: str
    ratio: str
    summary: str
    width: int = WIDTH
    height: int = _INTERVAL_HEIGHT


def loss_differences(windows: JsonObject) -> list[float] | None:
    """Return D_i = subject's minus baseline's loss per window in nats per token; None if one is not finite."""
    if None in windows["logloss"]:
        return None
    pairs = zip(windows["logloss"], windows["baseline_logloss"], strict=True)
    return [subject - baseline for subject, baseline in pairs]


def loss_figure(certificate: JsonObject) -> LossFigure | None:
    """Return the figure of the final windows' loss differences, or None where a loss is not finite."""
    differences = loss_differences(certificate["evaluation_windows"]["final"])
    if differences is None:
        return None
    tail = certificate["resolved_policy"]["primary_metric_tail"]
    counts = certificate["evaluation_windows"]["final"]["token_counts"]
    mean = math.fsum(d * t for d, t in zip(differences, counts, strict=True)) / math.fsum(counts)
    limit = float(tail["quantile_max"])
    scale = linear(min(0.0, *differences), max(0.0, limit, *differences), _LOSSES.bottom, _LOSSES.top)
    y = scale.at
    levels = [
        (y(limit), f"tail limit {formatting.limit(limit)}", "limit"),
        (y(mean), f"mean {formatting.signed(mean)}", "mean"),
        (y(0.0), "no change", "zero"),
    ]
    share = tail["quantile"]
    return LossFigure(
        points=_dots(sorted(differences), y),
        x_marks=tuple(Mark(_at(_share(p)), f"{formatting.percent(p)} %", "tick") for p in (0.0, 0.25, 0.5, 0.75, 1.0)),
        y_ticks=tuple(Mark(_at(y(tick)), text, "tick") for tick, text in scale.labelled),
        levels=tuple(_apart(levels)),
        quantile=_at(_share(share)),
        summary=(
            f"Sorted loss differences of {len(differences)} windows, from {formatting.signed(min(differences))} to "
            f"{formatting.signed(max(differences))} nats per token, mean {formatting.signed(mean)}; "
            f"the tail limit is {formatting.limit(limit)} at {formatting.percent(share)} % of the windows."
        ),
    )


def interval_figure(certificate: JsonObject) -> IntervalFigure | None:
    """Return the figure of ratio, interval and limit, or None where there is no ratio."""
    metric = certificate["primary_metric"]
    if "ratio_vs_baseline" not in metric:
        return None
    ratio, (lower, upper) = metric["ratio_vs_baseline"], metric["display_ci"]
    limit = certificate["resolved_policy"]["primary_metric"]["ratio_limit"]
    logarithms = [math.log(max(value, _SMALLEST_RATIO)) for value in (1.0, limit, lower, upper, ratio)]
    low, span = min(logarithms), max(logarithms) - min(logarithms) or 1.0
    margin = 40

    unchanged, limit_at, lower_at, upper_at, ratio_at = (
        _at(margin + (value - low) / span * (WIDTH - 2 * margin)) for value in logarithms
    )
    return IntervalFigure(
        unchanged=unchanged,
        limit=Mark(limit_at, f"limit {formatting.limit(limit)}", "limit"),
        low=lower_at,
        high=upper_at,
        ratio=ratio_at,
        summary=(
            f"Ratio {formatting.ratio(ratio)}, interval {formatting.interval((lower, upper))}, "
            f"limit {formatting.limit(limit)}, on a logarithmic axis."
        ),
    )


def _dots(values: Sequence[float], y: Callable[[float], float]) -> str:
    """Return path data with one dot per value; of very many values an even selection with both ends."""
    last = len(values) - 1
    steps = min(len(values), _MAX_POINTS)
    ranks = [0] if last == 0 else sorted({round(step * last / (steps - 1)) for step in range(steps)})
    return "".join(f"M{_at(_share(rank / max(1, last)))} {_at(y(values[rank]))}h0" for rank in ranks)


def _share(fraction: float) -> float:
    return _LOSSES.left + fraction * (_LOSSES.right - _LOSSES.left)


def _at(coordinate: float) -> str:
    return f"{coordinate:.1f}"


def _apart(levels: list[tuple[float, str, str]]) -> Iterator[Mark]:
    """Yield the levels from top to bottom, labels at least one line apart and inside of the figure."""
    ordered = sorted(levels)
    lowest = _LOSSES.bottom - _LABEL_GAP * (len(ordered) - 1)
    previous = -math.inf
    for index, (position, text, kind) in enumerate(ordered):
        label = max(previous + _LABEL_GAP, min(position, lowest + index * _LABEL_GAP))
        previous = label
        yield Mark(_at(position), text, kind, _at(label))
