"""A comparison for people: in a terminal, in a pull request, and as a page."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_proofpack.certificate.explain import gate_words, outcome_words
from pytest_proofpack.common.plain_table import all_folded
from pytest_proofpack.common.words import ABSENT, printable, ratio, shortened
from pytest_proofpack.pack.verified import EditFacts
from pytest_proofpack.plan.records import Strictness
from pytest_proofpack.report.formatting import counted
from pytest_proofpack.report.markdown import code
from pytest_proofpack.results.columns import Columns
from pytest_proofpack.results.comparison import Change, Comparison, Status
from pytest_proofpack.results.opened import Results

MAX_ROWS = 200
"""Edits that are shown; those that got worse come first where there are more."""
_LONGEST_NAME = 40
_COLUMNS = Columns(
    ("model", "scenario", "demand", "change", "perplexity after/before", "before", "after", "outcome"),
    right={5, 6},
    dispensable=(0, 2, 5, 6),
)
_ORDER = (Status.WORSE, Status.GONE, Status.INCOMPARABLE, Status.BETTER, Status.NEW, Status.SAME)
_SIGNS = {Status.BETTER: "good", Status.WORSE: "bad", Status.GONE: "bad", Status.INCOMPARABLE: "warn"}


def comparison_text(comparison: Comparison, width: int | None = None) -> str:
    """Return the comparison for a terminal."""
    changes, hidden = shown_changes(comparison)
    sides = (("before", comparison.before), ("after", comparison.after))
    lines = [
        *all_folded((f"{when:<7} {_side(side)}" for when, side in sides), width, 8),
        "",
        *_COLUMNS.text([_cells(change) for change in changes], width),
        *([f"... and {hidden} more, all of them in --format=json"] if hidden else []),
        *all_folded(_blocks(changes, _common(changes)), width),
        "",
        conclusion(comparison),
    ]
    return "\n".join(lines) + "\n"


def comparison_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown, for a pull request."""
    changes, hidden = shown_changes(comparison)
    common = _common(changes)
    notes = [f"- every edit: {code(line)}" for line in common]
    notes += [
        f"- {code(name)}: {code(line)}" for change in changes for name, line in _lines(change) if line not in common
    ]
    lines = [
        f"**{conclusion(comparison)}**",
        "",
        f"- before: {_side_markdown(comparison.before)}",
        f"- after: {_side_markdown(comparison.after)}",
        "",
        *_COLUMNS.markdown([_cells(change) for change in changes]),
        *(["", f"… and {hidden} more."] if hidden else []),
        *(["", *notes] if notes else []),
        "",
        _legend(comparison),
    ]
    return "\n".join(lines) + "\n"


def comparison_html(comparison: Comparison) -> str:
    """Return the comparison as a page of its own."""
    from pytest_proofpack.report.rendering import render

    changes, hidden = shown_changes(comparison)
    common = _common(changes)
    return render(
        "comparison.html.j2",
        conclusion=conclusion(comparison),
        good=is_good(comparison),
        sides=[("before", comparison.before), ("after", comparison.after)],
        headings=_COLUMNS.headings,
        rows=[(_sign(change), _cells(change), _own_lines(change, common)) for change in changes],
        common=common,
        hidden=hidden,
        legend=_legend(comparison),
    )


def conclusion(comparison: Comparison) -> str:
    """Return in a sentence what came of it, of what is there to be shown."""
    told = _told(comparison)
    counts = {status: sum(change.status is status for change in told) for status in Status}
    parts = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    if comparison.regressions:
        number = len(comparison.regressions)
        head = f"{number} REGRESSION{'' if number == 1 else 'S'}"
    elif comparison.incomparable:
        head = f"NOTHING CAN BE SAID of {counted(len(comparison.incomparable), 'edit')} that must pass"
    else:
        head = "No regression"
    doubt = "" if comparison.before.verified and comparison.after.verified else " NOT VERIFIED:"
    return f"{doubt} {head}: {parts or 'no edit at all'}.".lstrip()


def is_good(comparison: Comparison) -> bool:
    """Tell whether there is nothing to look at: no regression, nothing incomparable, everything verified."""
    verified = comparison.before.verified and comparison.after.verified
    return verified and not comparison.regressions and not comparison.incomparable


def shown_changes(comparison: Comparison) -> tuple[list[Change], int]:
    """Return the edits that are shown, and how many are not: calibrations without a change are never."""
    told = _told(comparison)
    if len(told) > MAX_ROWS:
        told.sort(key=lambda change: (not change.regressions, _ORDER.index(change.status)))
    return told[:MAX_ROWS], max(0, len(told) - MAX_ROWS)


def _told(comparison: Comparison) -> list[Change]:
    """Return what is told of: everything but calibrations that are the same, which edit nothing."""
    return [
        one
        for one in comparison.changes
        if one.regressions or not (one.scenario == "calibration" and one.status is Status.SAME)
    ]


def _side(results: Results) -> str:
    verdict = f", verdict {results.verdict}" if results.verdict else ""
    time = f", of {results.time}" if results.time else ""
    return "; ".join([f"{results.kind} {results.name}{time}{verdict}", results.standing, *results.caution])


def _side_markdown(results: Results) -> str:
    verdict = f", verdict {results.verdict}" if results.verdict else ""
    time = f", of {code(results.time)}" if results.time else ""
    return "; ".join([f"{results.kind} {code(results.name)}{time}{verdict}", code(results.standing), *results.caution])


def _cells(change: Change) -> tuple[str, ...]:
    difference = change.difference
    told = ABSENT
    if difference is not None:
        low, high = difference.interval
        told = f"{ratio(difference.ratio)} [{ratio(low)}, {ratio(high)}]"
    return (
        printable(shortened(change.model, _LONGEST_NAME)),
        printable(shortened(change.scenario, _LONGEST_NAME)),
        Strictness(change.strictness).value.replace("_", " "),
        change.status.value.upper() if change.regressions else change.status.value,
        told,
        _ratio(change.before),
        _ratio(change.after),
        _outcome(change),
    )


def _sign(change: Change) -> str:
    return "bad" if change.regressions else _SIGNS.get(change.status, "")


def _ratio(edit: EditFacts | None) -> str:
    return ABSENT if edit is None or edit.ratio is None else ratio(edit.ratio)


def _outcome(change: Change) -> str:
    words = [
        outcome_words(Strictness(side.strictness), passed=side.passed, as_expected=side.as_expected)
        for side in (change.before, change.after)
        if side is not None
    ]
    return words[0] if len(set(words)) == 1 else "; then ".join(words)


def _common(changes: list[Change]) -> list[str]:
    """Return what is to be said of every edit, so that it need be said but once."""
    if len(changes) < 2:
        return []
    first, *others = ([line for _, line in _lines(change)] for change in changes)
    return [line for line in first if all(line in lines for lines in others)]


def _own_lines(change: Change, common: list[str]) -> list[str]:
    return [line for _, line in _lines(change) if line not in common]


def _blocks(changes: list[Change], common: list[str]) -> Iterator[str]:
    """Yield what is to be said of all edits and of single ones, under their names."""
    if common:
        yield from ("", "every edit", *(f"  {line}" for line in common))
    for change in changes:
        if lines := _own_lines(change, common):
            name = next(name for name, _ in _lines(change))
            yield from ("", name, *(f"  {line}" for line in lines))


def _lines(change: Change) -> Iterator[tuple[str, str]]:
    """Yield the edit's name, and what is to be said of it."""
    name = printable(shortened(f"{change.model} {change.scenario}", 2 * _LONGEST_NAME))
    yield from ((name, f"REGRESSION: {line}") for line in change.regressions)
    label = "incomparable" if change.status is Status.INCOMPARABLE else "no interval"
    yield from ((name, f"{label}: {line}") for line in change.why)
    before, after = change.failed_gates
    if change.before is not None and change.after is not None:
        gone = [gate_words(gate) for gate in before if gate not in after]
        new = [gate_words(gate) for gate in after if gate not in before]
        if new:
            yield name, f"fails now: {', '.join(new)}"
        if gone:
            yield name, f"fails no more: {', '.join(gone)}"
    yield from ((name, line) for line in change.remarks)


def _legend(comparison: Comparison) -> str:
    return (
        "Perplexity of the edited model after over before, each relative to the unedited model, on the windows that "
        "both were measured on, with its paired 95 % interval. An edit that must pass may rise by "
        f"{100 * comparison.max_regression:.2f} %; the interval's upper end counts."
    )
