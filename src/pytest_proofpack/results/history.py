"""Results over time: of every edit of every model its ratio in one run after another, as a table and as a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_proofpack.certificate.explain import outcome_words
from pytest_proofpack.common.nonsense import making_sense
from pytest_proofpack.common.plain_table import all_folded, columns_of, folded
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import ABSENT, limit, printable, ratio, shortened
from pytest_proofpack.errors import ConfigurationError, FormatError, VerificationError
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.layout import MANIFEST
from pytest_proofpack.pack.verified import EditFacts
from pytest_proofpack.plan.records import Strictness
from pytest_proofpack.report.markdown import code
from pytest_proofpack.results.columns import Columns, ratio_cells
from pytest_proofpack.results.opened import Results, open_results

FORMAT = "proof-pack-history-v1"
MAX_RESULTS = 1000
_RESULT = "result"
_COLUMNS = Columns(
    ("model", "scenario", "time", "ratio", "95 % interval", "limit", "outcome", _RESULT),
    right={3, 5},
    dispensable=(0, 5, 4),
    names={0, 1, 7},
)
_NUMBERED = replace(
    _COLUMNS, headings=("model", "scenario", _RESULT, "ratio", "95 % interval", "limit", "outcome"), right={2, 3, 5}
)
_LONGEST = 40
_COMMIT = 10
_WIDTH, _HEIGHT, _MARGIN, _LABELS = 400, 120, 12, 48
_SMALLEST, _LARGEST = 1e-6, 1e12


@dataclass(frozen=True)
class Point:
    """One edit in one result: the result's name, its time, and the edit's worst run."""

    name: str
    time: str
    commit: str
    edit: EditFacts


@dataclass(frozen=True)
class History:
    """Results over time.

    Attributes:
        series: by model and scenario, in the order of time.
        refused: what was left out because it does not hold, and why; printable.
    """

    series: dict[tuple[str, str], list[Point]] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the JSON form; its strings are as the results have them."""
        return {
            "format": FORMAT,
            "series": [
                {
                    "model": model,
                    "scenario": scenario,
                    "strictness": points[-1].edit.strictness,
                    "points": [_point_json(point) for point in points],
                }
                for (model, scenario), points in self.series.items()
            ],
            "refused": list(self.refused),
        }


def found_results(paths: Sequence[Path]) -> list[Path]:
    """Return the packs and run directories that are named, or lie directly in a directory that is named.

    A run whose pack is named, or lies there too, counts once: as its pack.

    Raises:
        ConfigurationError: there is no such directory, none in it, or far too many.
    """
    found: list[Path] = []
    for path in paths:
        if _is_result(path):
            found.append(path)
            continue
        if not path.is_dir():
            raise ConfigurationError(f"{path}: there is no such directory. Name packs, runs, or a directory of them.")
        below = [child for child in sorted(path.iterdir()) if _is_result(child)]
        if not below:
            raise ConfigurationError(f"{path}: holds neither packs nor run directories.")
        found += below
    if len(found) > MAX_RESULTS:
        raise ConfigurationError(f"{len(found)} results are more than the {MAX_RESULTS} that are read at a time.")
    return list(dict.fromkeys(_pack_of(path) for path in found))


def history(
    paths: Iterable[Path], demands: Demands | None = None, *, accept_unverified: bool = False
) -> tuple[History, tuple[Results, ...]]:
    """Read results and put them in the order of time; what does not hold is left out, and said.

    Returns:
        The history, and what it was made of.
    """
    read: list[tuple[Results, tuple[EditFacts, ...]]] = []
    refused: list[str] = []
    for path in paths:
        try:
            result = open_results(path, demands, accept_unverified=accept_unverified)
            with making_sense(f"{path}: "):  # what was not verified fits its schema, and no more is known of it
                read.append((result, result.edits))
        except (VerificationError, FormatError) as error:
            refused.append(printable(shortened(str(error), 400)))
    read.sort(key=lambda one: (one[0].time or "", one[0].name))
    series: dict[tuple[str, str], list[Point]] = {}
    for one, edits in read:
        commit = str(one.manifest.get("meta", {}).get("commit", ""))
        for edit in edits:
            if edit.scenario != "calibration":
                point = Point(one.name, one.time or ABSENT, commit, edit)
                series.setdefault((edit.model, edit.scenario), []).append(point)
    return History(series, tuple(refused)), tuple(one for one, _ in read)


def history_text(found: History, width: int | None = None) -> str:
    """Return it for a terminal; where that is too narrow to name results in every row, they are named once, above."""
    if not found.series:
        return "\n".join(["nothing to show", *_refused(found, width)]) + "\n"
    rows = list(_rows(found))
    lines = list(_COLUMNS.text(rows, width))
    if width is not None and max(map(columns_of, lines)) > width:
        lines = list(_numbered(found, rows, width))
    return "\n".join([*lines, *_refused(found, width)]) + "\n"


def _numbered(found: History, rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Yield the results in the order of time with a number each, then a table that names them by it."""
    points = [_cells(point) for points in found.series.values() for point in points]
    named = sorted({(cells[2], cells[7]) for cells in points})
    numbers = {result: str(number) for number, result in enumerate(named, start=1)}
    for result, number in numbers.items():
        yield from folded(f"{_RESULT} {number}: {result[0]} {result[1]}", width)
    yield ""
    yield from _NUMBERED.text([(*row[:2], numbers[row[2], row[7]], *row[3:7]) for row in rows], width)


def history_markdown(found: History) -> str:
    """Return it as Markdown."""
    lines = [*_COLUMNS.markdown(list(_rows(found))), *([""] if found.refused else [])]
    lines += [f"- left out: {code(line)}" for line in found.refused]
    return "\n".join(lines) + "\n"


def history_html(found: History) -> str:
    """Return it as a page: a plot and a table for every edit."""
    from pytest_proofpack.report.rendering import render

    sections = [
        (f"{model}: {scenario}", plot(points), [_cells(point)[2:] for point in points])
        for (model, scenario), points in found.series.items()
    ]
    return render("history.html.j2", sections=sections, headings=_COLUMNS.headings[2:], refused=found.refused)


@dataclass(frozen=True)
class Plot:
    """A plot of ratios on a logarithmic axis: the line, the intervals, the limits, and the same in words.

    Coordinates are of a picture that is ``width`` by ``height``.
    """

    line: str
    intervals: tuple[tuple[str, str, str], ...]
    dots: tuple[tuple[str, str, str], ...]
    limit: str
    low: str
    high: str
    summary: str
    width: int = _WIDTH
    height: int = _HEIGHT


def plot(points: Sequence[Point]) -> Plot | None:
    """Return the plot of one edit; None if it never had a ratio."""
    measured = [(index, point.edit) for index, point in enumerate(points) if point.edit.ratio is not None]
    if not measured:
        return None
    values = [value for _, edit in measured for value in (edit.ratio, *(edit.interval or ()), edit.limit) if value]
    low, high = math.log(_held(min(1.0, *values))), math.log(_held(max(values)))
    span = high - low or 1.0

    def y(value: float) -> float:
        return _MARGIN + (high - math.log(_held(value))) / span * (_HEIGHT - 2 * _MARGIN)

    def x(index: int) -> float:
        return _LABELS + (index + 0.5) / len(points) * (_WIDTH - _LABELS - _MARGIN)

    heights = [f"{y(edit.limit):.1f}" for _, edit in measured]
    places = [f"{x(index):.1f}" for index, _ in measured]
    ratios = [(index, edit.ratio) for index, edit in measured if edit.ratio is not None]
    return Plot(
        line=" ".join(f"{x(index):.1f},{y(value):.1f}" for index, value in ratios),
        intervals=tuple(
            (f"{x(index):.1f}", f"{y(edit.interval[0]):.1f}", f"{y(edit.interval[1]):.1f}")
            for index, edit in measured
            if edit.interval is not None
        ),
        dots=tuple(
            (f"{x(index):.1f}", f"{y(edit.ratio or 1.0):.1f}", "good" if edit.as_expected else "bad")
            for index, edit in measured
        ),
        limit=" ".join(
            f"{place},{height}"
            for place, height in zip(
                (str(_LABELS), *places, str(_WIDTH)), (heights[0], *heights, heights[-1]), strict=True
            )
        ),
        low=ratio(math.exp(low)),
        high=ratio(math.exp(high), math.exp(low)),
        summary=_summary(len(points), ratios[0][1], ratios[-1][1]),
    )


def _summary(count: int, first: float, last: float) -> str:
    if count == 1:
        return f"1 result, ratio {ratio(first)}"
    return f"{count} results, ratio from {ratio(first)} to {ratio(last)}"


def _held(value: float) -> float:
    return min(max(value, _SMALLEST), _LARGEST)


def _is_result(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or (path / "state" / "run.json").is_file())


def _pack_of(path: Path) -> Path:
    """Return the pack in a run's directory, where there is one in the usual place."""
    packed = path / "proof_pack"
    if (path / MANIFEST).is_file() or packed.is_symlink():
        return path
    return packed if (packed / MANIFEST).is_file() else path


def _rows(found: History) -> Iterator[tuple[str, ...]]:
    for points in found.series.values():
        for index, point in enumerate(points):
            cells = _cells(point)
            yield cells if index == 0 else ("", "", *cells[2:])


def _cells(point: Point) -> tuple[str, ...]:
    edit = point.edit
    commit = f" ({printable(point.commit[:_COMMIT])})" if point.commit else ""
    return (
        printable(shortened(edit.model, _LONGEST)),
        printable(shortened(edit.scenario, _LONGEST)),
        printable(point.time),
        *ratio_cells(edit),
        limit(edit.limit),
        outcome_words(Strictness(edit.strictness), passed=edit.passed, as_expected=edit.as_expected),
        f"{shortened(point.name, 2 * _LONGEST)}{commit}",
    )


def _refused(found: History, width: int | None) -> list[str]:
    told = (f"left out, NOT VERIFIED: {line}" for line in found.refused)
    return ["", *all_folded(told, width)] if found.refused else []


def _point_json(point: Point) -> JsonObject:
    edit = point.edit
    keys = ("run", "runs", "as_expected", "passed", "ratio", "interval", "limit", "kl")
    return {
        "name": point.name,
        "time": point.time,
        "commit": point.commit,
        **{key: getattr(edit, key) for key in keys},
    }
