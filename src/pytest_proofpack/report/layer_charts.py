"""Charts of what was measured layer by layer, one mark per layer and group of parameters. The templates draw them.

Where a group has several matrices in a layer, the mark stands at the one that is farthest from no change, and a line
leads from the smallest to the largest. The numbers come from a certificate that may hold anything: what is not a finite
number is left out, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.spectral_evidence import GROUP_WORDS
from pytest_proofpack.report import formatting
from pytest_proofpack.report.scales import Frame, Scale, linear, logarithmic

FRAME = Frame(width=340, height=172, left=46, right=332, top=10, bottom=138)
_WIDE_RANGE = 4.0
_SHAPES: Mapping[str, str] = {
    "ffn": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0",
    "attn": "m-2.7 -2.7h5.4v5.4h-5.4z",
    "router": "m0 -3.6l3.6 6.4h-7.2z",
}
_OTHER_SHAPE = "m0 -4l4 4l-4 4l-4 -4z"
_MOST_MARKS = 20_000
_LARGEST = 1e100
Point = tuple[str, int | None, float]
"""Group, layer (None outside of layers) and value."""


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: str
    text: str


@dataclass(frozen=True)
class Series:
    """The marks of one group of parameters, as data of two SVG paths."""

    group: str
    name: str
    marks: str
    ranges: str
    sample: str


@dataclass(frozen=True)
class Chart:
    """One chart; coordinates are SVG units in the picture of ``frame``."""

    title: str
    caption: str
    series: tuple[Series, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    neutral: str
    summary: str
    frame: Frame = FRAME


@dataclass(frozen=True)
class _Kind:
    """What a chart shows: its words, the value that says that nothing changed, and the points of a certificate."""

    title: str
    caption: str
    neutral: float
    points: Callable[[JsonObject], Iterator[Point]]


def layer_charts(certificate: JsonObject) -> Mapping[str, Chart]:
    """Return the charts by the guard whose numbers they show; those that nothing was measured for are left out."""
    made = {guard: _chart(kind, certificate) for guard, kind in _KINDS.items()}
    return {guard: chart for guard, chart in made.items() if chart is not None}


def _chart(kind: _Kind, certificate: JsonObject) -> Chart | None:
    cells: dict[tuple[str, int], list[float]] = {}
    for group, layer, value in islice(kind.points(certificate), _MOST_MARKS):
        if group in GROUP_WORDS and abs(value) < _LARGEST:
            cells.setdefault((group, -1 if layer is None else layer), []).append(value)
    if not cells:
        return None
    values = [value for own in cells.values() for value in own]
    wide = kind.neutral > 0 and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE
    layers = sorted({layer for _, layer in cells})
    groups = tuple(group for group in GROUP_WORDS if any(own == group for own, _ in cells))
    ends = min(kind.neutral, *values), max(kind.neutral, *values)
    axes = _Axes(
        _columns(layers), (logarithmic if wide else linear)(*ends, FRAME.bottom, FRAME.top), kind.neutral, groups
    )
    return Chart(
        kind.title,
        kind.caption + (", logarithmic" if wide else ""),
        tuple(_series(cells, group, axes) for group in groups),
        tuple(_layer_ticks(layers, axes.x)),
        tuple(Tick(f"{axes.y.at(tick):.1f}", text) for tick, text in axes.y.labelled),
        f"{axes.y.at(kind.neutral):.1f}",
        _summary(kind, cells),
    )


def _summary(kind: _Kind, cells: Mapping[tuple[str, int], list[float]]) -> str:
    values = [value for own in cells.values() for value in own]
    worst = {cell: _farthest(own, kind.neutral) for cell, own in cells.items()}
    group, layer = max(worst, key=lambda cell: _distance(worst[cell], kind.neutral))
    where = f"{formatting.group_words(group)}{'' if layer < 0 else f' in layer {layer}'}"
    lowest, highest, neutral, farthest = map(
        formatting.number, (min(values), max(values), kind.neutral, worst[group, layer])
    )
    return f"{kind.title} by layer, {lowest} to {highest}; farthest from {neutral} is {farthest}, {where}."


@dataclass(frozen=True)
class _Axes:
    """Where things stand: the column of a layer, the height of a value, and of no change; groups side by side."""

    x: Callable[[int], float]
    y: Scale
    neutral: float
    groups: tuple[str, ...]

    def column(self, group: str, layer: int) -> float:
        """Return where a group's mark of a layer stands."""
        of, index = len(self.groups), self.groups.index(group)
        return self.x(layer) + (index - (of - 1) / 2) * min(6.0, (self.x(1) - self.x(0)) / (of + 1))


def _columns(layers: list[int]) -> Callable[[int], float]:
    """Return where a layer stands; what is in no layer stands left of all."""
    width = FRAME.right - FRAME.left
    first, last = layers[0], layers[-1]
    step = width / (last - first + 1)
    return lambda layer: FRAME.left + (layer - first + 0.5) * step


def _layer_ticks(layers: list[int], x: Callable[[int], float]) -> Iterator[Tick]:
    inside = [layer for layer in layers if layer >= 0]
    if layers[0] < 0:
        yield Tick(f"{x(-1):.1f}", "none")
    if inside:
        step = max(1, math.ceil((inside[-1] - inside[0] + 1) / 8))
        for layer in range(inside[0], inside[-1] + 1, step):
            yield Tick(f"{x(layer):.1f}", str(layer))


def _series(cells: Mapping[tuple[str, int], list[float]], group: str, axes: _Axes) -> Series:
    shape, at = _SHAPES.get(group, _OTHER_SHAPE), axes.y.at
    marks, ranges = [], []
    for (own, layer), values in sorted(cells.items()):
        if own == group:
            column = axes.column(group, layer)
            marks.append(f"M{column:.1f} {at(_farthest(values, axes.neutral)):.1f}{shape}")
            if len(values) > 1:
                ranges.append(f"M{column:.1f} {at(min(values)):.1f}V{at(max(values)):.1f}")
    return Series(group, formatting.group_words(group), "".join(marks), "".join(ranges), f"M6 6{shape}")


def _farthest(values: list[float], neutral: float) -> float:
    return max(values, key=lambda value: _distance(value, neutral))


def _distance(value: float, neutral: float) -> float:
    """Return how far a value is from no change; of ratios, by their logarithms."""
    return abs(math.log(value / neutral)) if neutral > 0 and value > 0 else abs(value - neutral)


def _changes(certificate: JsonObject) -> Iterator[Point]:
    """Yield |W' - W| / |W|: compared value by value for a loaded checkpoint, else from what the guards measured."""
    layers = _layers(certificate)
    structure = certificate["structure"]
    if "changes" in structure:
        for row in _rows(structure["changes"].get("tensors")):
            base, difference = formatting.finite(row.get("norm_base")), formatting.finite(row.get("difference"))
            if base and difference is not None:
                yield str(row.get("family")), layers.get(str(row.get("name"))), difference / base
        return
    norms = {
        str(row.get("name")): (formatting.finite(row.get("frobenius_base")), formatting.finite(row.get("frobenius")))
        for row in _rows(certificate["spectral"].get("matrices"))
    }
    for row in _rows(certificate.get("direction", {}).get("matrices")):
        label, retained = str(row.get("name")), formatting.finite(row.get("retained"))
        base, norm = norms.get(label, (None, None))
        if base and norm is not None and retained is not None:
            growth = norm / base
            change = math.sqrt(max(0.0, 1.0 - 2.0 * retained * growth**2 + growth**2))
            yield str(row.get("family")), layers.get(_parameter(label)), change


def _singular_values(certificate: JsonObject) -> Iterator[Point]:
    layers = _layers(certificate)
    for row in _rows(certificate["spectral"].get("matrices")):
        base, value = formatting.finite(row.get("sigma_base")), formatting.finite(row.get("sigma"))
        if base and value is not None:
            yield str(row.get("family")), layers.get(_parameter(str(row.get("name")))), value / base


def _outputs(certificate: JsonObject, guard: str) -> Iterator[Point]:
    branches = certificate[guard].get("branches")
    for row in branches.values() if isinstance(branches, Mapping) else ():
        if not isinstance(row, Mapping):
            continue
        base, value = formatting.finite(row.get("base")), formatting.finite(row.get("cur"))
        if base and value is not None:
            yield str(row.get("family")), _layer(row.get("block")), value / base


def _answers(certificate: JsonObject) -> Iterator[Point]:
    responses = certificate.get("direction", {}).get("responses")
    places = {
        str(row.get("name")): (str(row.get("family")), _layer(row.get("block")))
        for row in _rows(certificate["invariants"].get("sublayers"))
    }
    for name, value in responses.items() if isinstance(responses, Mapping) else ():
        number = formatting.finite(value)
        if number is not None and name in places:
            yield (*places[name], number)


def _layers(certificate: JsonObject) -> dict[str, int | None]:
    return {str(row.get("name")): _layer(row.get("block")) for row in _rows(certificate["invariants"].get("tensors"))}


def _layer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 100_000 else None


def _parameter(label: str) -> str:
    return label.partition("[")[0]


def _rows(table: object) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table that is stored by columns; nothing of what is none."""
    if not isinstance(table, Mapping) or not table or not all(isinstance(column, list) for column in table.values()):
        return
    for values in zip(*table.values(), strict=False):
        yield dict(zip(table, values, strict=True))


_KINDS: Mapping[str, _Kind] = {
    "direction": _Kind("Relative change of weights", "norm of the difference over the norm before", 0.0, _changes),
    "spectral": _Kind("Largest singular value", "after the edit over before", 1.0, _singular_values),
    "rmt": _Kind("Edge of the outputs’ spectrum", "after over before", 1.0, lambda c: _outputs(c, "rmt")),
    "variance": _Kind("Variance of outputs", "after over before", 1.0, lambda c: _outputs(c, "variance")),
    "answers": _Kind("Answers of sublayers", "cosine with the answer before", 1.0, _answers),
}
"""By the guard under which it is shown."""
