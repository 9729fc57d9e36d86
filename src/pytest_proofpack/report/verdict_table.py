"""The verdict as plain text: ``final_verdict.txt``, and the table that ends a run in the terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_proofpack.certificate.explain import (
    NOT_CAUGHT,
    detector_words,
    gate_words,
    is_uncaught,
    outcome_word,
    warning_words,
    why_not,
)
from pytest_proofpack.certificate.verdict import row_key
from pytest_proofpack.common.plain_table import folded
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable
from pytest_proofpack.guards.guard import SIGNALS, Signal
from pytest_proofpack.plan.records import Strictness
from pytest_proofpack.report import formatting

MIN_WIDTH = 40
"""Narrower tables than this are not made."""
_LONGEST_SCENARIO = 20
_LEAST_ROOM = 20
_DETAIL_INDENT = "      "
_HEADINGS = ("scenario", "run", "ratio", "95 % interval", "result", "seen by", "not held, detectors")
_SEEN, _DETAILS = 5, 6
"""Columns that are left out where nothing stands in them."""
_NOT_SEEN = "."
_GAP = "  "
_INDENT = "  "
_RESULTS = ("FAILED", "MISSING", "PASSED", "CAUGHT", "INFO")
_LISTED = "*"
_TOLD_ELSEWHERE = ("baseline_quality", "own_limits")
"""Warnings that have a line of their own at the end of a session."""

Cells = tuple[str, ...]


def verdict_table(verdict: JsonObject, width: int = 100, *, whole: bool = False) -> list[str]:
    """Return one line per certificate (more where its gates need them), grouped by model, at most ``width`` wide.

    Missing certificates have their line too. Letters say which of the independent signals saw the edit. A
    detector that the scenario lists is marked with ``*``. Names are shown without control characters, so the lines
    may be written to a terminal.

    Args:
        verdict: the verdict.
        width: the most columns that a line has, at least 40.
        whole: with the columns that are empty, and what explains them, as in every ``final_verdict.txt``.
    """
    width = max(width, MIN_WIDTH)
    rows = [*verdict["certificates"], *verdict["missing"]]
    if not rows:
        return ["no certificates"]
    cells = {
        model: [_cells(row) for row in rows if row["model"] == model]
        for model in formatting.unique(row["model"] for row in rows)
    }
    table = list(zip(_HEADINGS, *(row for of_model in cells.values() for row in of_model), strict=True))
    used = {at for at, (_, *column) in enumerate(table) if whole or at < _SEEN or any(map(_says_something, column))}
    widths = [max(map(len, column)) for at, column in enumerate(table) if at in used]
    lines: list[str] = []
    for model, of_model in cells.items():
        lines += folded(printable(model), width)
        for row in (_HEADINGS, *of_model):
            lines += _lines([cell for at, cell in enumerate(row) if at in used], widths[:-1], width)
        lines.append("")
    if _SEEN in used:
        legend = ", ".join(f"{signal.letter} {signal.legend}" for signal in _signals())
        lines += textwrap.wrap(f"seen by: {legend}", width)
    if whole or any(_LISTED in cell for cell in table[_DETAILS]):
        lines.append(f"{_LISTED} a detector that the scenario lists")
    return lines if lines[-1] else lines[:-1]


def _says_something(cell: str) -> bool:
    return bool(cell.strip(_NOT_SEEN))


def verdict_text(verdict: JsonObject) -> str:
    """Return ``final_verdict.txt``: the verdict, counts, the table, and everything that is not as it should be."""
    counts = verdict["counts"]
    suite = printable(verdict["suite"])
    models = "1 model" if counts["models_total"] == 1 else f"{counts['models_total']} models"
    missing = len(verdict["missing"])
    lines = [
        f"VERDICT: {verdict['verdict']}",
        *([f"INCOMPLETE: {missing} certificates are missing"] if missing else []),
        "",
        f"Suite {suite}, {models}: {counts['records_total']} of {counts['expected_total']} expected certificates.",
        *_count_lines(counts),
        "",
        *verdict_table(verdict, whole=True),
    ]
    sections = {
        "Failed requirements": [_requirement(entry) for entry in verdict["failed_requirements"]],
        "Missing certificates": [_certificate(entry) for entry in verdict["missing"]],
        "Unexpected certificates": [_certificate(entry) for entry in verdict["unexpected"]],
        "Left out on purpose": [
            printable(f"{entry['model']}: {entry['scenario']}: {entry['reason']}") for entry in verdict["skipped"]
        ],
    }
    for title, entries in sections.items():
        if entries:
            lines += ["", title, *(f"{_INDENT}- {entry}" for entry in entries)]
    return "\n".join(lines) + "\n"


def _signals() -> list[Signal]:
    """Return the signals in the order of their letters: the package's own, then those of extensions' guards."""
    from pytest_proofpack.guards.registry import GUARDS

    further = [guard.signal for guard in GUARDS.added.values() if guard.signal is not None]
    return list({signal.name: signal for signal in (*SIGNALS, *further)}.values())


def _cells(row: Mapping[str, Any]) -> Cells:
    scenario = _shortened(printable(row["scenario"]), _LONGEST_SCENARIO)
    run = str(row["run"])
    if "passed" not in row:
        return scenario, run, "-", "-", "MISSING", "", ""
    interval = formatting.interval(row["interval"]).replace(" to ", "-") if "interval" in row else "-"
    ratio = formatting.row_ratio(row, absent="-")
    seen = "".join(signal.letter if signal.name in row["signals"] else _NOT_SEEN for signal in _signals())
    return scenario, run, ratio, interval, _result(row), seen, _detail(row)


def _result(row: Mapping[str, Any]) -> str:
    return outcome_word(Strictness(row["strictness"]), as_expected=row["as_expected"])


def _detail(row: Mapping[str, Any]) -> str:
    listed = [detector_words(name) for name in row["detectors_fired"]]
    failed = [gate_words(name) for name in row["failed_gates"]]
    parts = [name + _LISTED if name in listed else name for name in formatting.unique([*failed, *listed])]
    return ", ".join([*parts, NOT_CAUGHT] if is_uncaught(row["strictness"], as_expected=row["as_expected"]) else parts)


def model_lines(verdict: JsonObject) -> list[str]:
    """Return one line per model: how its certificates turned out, and the largest ratio of its clean edits."""
    lines = []
    rows = [*verdict["certificates"], *verdict["missing"]]
    for model in formatting.unique(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        counts = Counter(_result(row) if "passed" in row else "MISSING" for row in own)
        told = ", ".join(f"{counts[word]} {word}" for word in _RESULTS if counts[word])
        clean = [row["ratio"] for row in own if row.get("strictness") == Strictness.MUST_PASS and "ratio" in row]
        largest = f"; largest ratio that must pass {formatting.ratio(max(clean))}" if clean else ""
        lines.append(printable(f"{model}: {told}{largest}"))
    return lines


def reasons(verdict: JsonObject) -> list[str]:
    """Return why a verdict is FAIL: a line per requirement, and below it one per certificate that does not meet it."""
    rows = {row_key(row): row for row in verdict["certificates"]}
    lines: dict[str, list[str]] = {}
    for entry in verdict["failed_requirements"]:
        below = lines.setdefault(printable(f"{entry['requirement']}: {entry['message']}"), [])
        if "model" in entry:
            row = rows[row_key(entry)]
            below.append(f"{_certificate(entry)}: {_row_words(row)}")
    return [line for head, below in lines.items() for line in (head, *(f"{_INDENT}{text}" for text in below))]


def warned(verdict: JsonObject) -> list[str]:
    """Return what has to pass and does, with a warning: a line per model and warning, with the scenarios."""
    scenarios: dict[tuple[str, str], list[str]] = {}
    for row in verdict["certificates"]:
        if row["as_expected"] and row["strictness"] == Strictness.MUST_PASS:
            for name in row["warnings"]:
                if name not in _TOLD_ELSEWHERE:
                    scenarios.setdefault((row["model"], name), []).append(row["scenario"])
    lines = []
    for (model, name), found in scenarios.items():
        first, *others = formatting.unique(found)
        more = f" and {formatting.counted(len(others), 'other')}" if others else ""
        lines.append(printable(f"{model}: {first}{more}: {warning_words(name)}"))
    return lines


def _row_words(row: Mapping[str, Any]) -> str:
    """Return what was measured, and what of it is not as it should be."""
    ratio = f"ratio {formatting.row_ratio(row)}" if "ratio" in row else "no ratio"
    return f"{ratio}; {why_not(row)}"


def _lines(row: Sequence[str], widths: Sequence[int], width: int) -> Iterator[str]:
    """Yield the row's line, and further ones where its last cell is too long for the room that is left."""
    cells = [_aligned(cell, size, index) for index, (cell, size) in enumerate(zip(row[:-1], widths, strict=True))]
    *above, line = _filled(cells, width)
    line += _GAP
    room = width - len(line)
    if room >= _LEAST_ROOM:
        first, *rest = textwrap.wrap(row[-1], room) or [""]
        margin = " " * len(line)
        line += first
    else:
        rest = textwrap.wrap(row[-1], width - len(_DETAIL_INDENT))
        margin = _DETAIL_INDENT
    yield from filter(None, (text.rstrip() for text in (*above, line)))
    yield from (margin + further for further in rest)


def _filled(cells: Iterable[str], width: int) -> list[str]:
    """Return cells on one line, or on further ones, which begin deeper, where they do not fit."""
    lines: list[str] = []
    for cell in cells:
        if not lines:
            lines.append(_INDENT + cell)
        elif len(lines[-1] + _GAP + cell) <= width:
            lines[-1] += _GAP + cell
        else:
            lines.append(_DETAIL_INDENT + cell)
    return lines


def _aligned(cell: str, size: int, index: int) -> str:
    return cell.rjust(size) if index in (1, 2) else cell.ljust(size)


def _shortened(text: str, longest: int) -> str:
    """Return ``text`` with its middle left out where it is too long: beginnings and ends tell scenarios apart."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[head + 1 - longest :]}"


def _count_lines(counts: Mapping[str, int]) -> list[str]:
    words = {
        Strictness.MUST_PASS: "must pass",
        Strictness.MUST_FAIL: "must fail",
        Strictness.MUST_DETECT: "must be detected",
    }
    lines = [
        f"{_INDENT}{text:<17} {counts[f'{kind}_as_expected']} of {counts[f'{kind}_total']} as expected"
        for kind, text in words.items()
    ]
    informational = counts[f"{Strictness.INFORMATIONAL}_total"]
    return [*lines, f"{_INDENT}{'informational':<17} {informational}, never part of the verdict"]


def _certificate(entry: Mapping[str, Any]) -> str:
    return printable(f"{entry['model']}: {entry['scenario']}, run {entry['run']}")


def _requirement(entry: Mapping[str, Any]) -> str:
    where = f" ({_certificate(entry)})" if "model" in entry else ""
    return f"{printable(entry['requirement'])}: {printable(entry['message'])}{where}"
