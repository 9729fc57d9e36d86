"""What a verified pack says, in lines for people: escaped, cut, and few, whatever the pack holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_proofpack.certificate.explain import outcome_words, warning_words
from pytest_proofpack.certificate.formats import FORMATS
from pytest_proofpack.certificate.limits import describe
from pytest_proofpack.certificate.older import lacking_words
from pytest_proofpack.common.plain_table import folded, plain_table
from pytest_proofpack.common.words import limit, number, printable, ratio, shortened, signed
from pytest_proofpack.pack.verified import EditFacts, Verified
from pytest_proofpack.plan.records import Strictness

MAX_ROWS = 60
"""Lines of edits; those that are not as expected come first where there are more."""
MAX_NAMES = 10
"""Models, subjects, edits left out and edits with warnings that are named."""
_MAX_LENGTH = 240
_LONGEST_NAME = 40
_TITLE = 13
_ABSENT = "-"
_HEADINGS = ("model", "scenario", "demand", "runs", "ratio", "interval", "limit", "margin", "KL", "worst run")
_RIGHT = frozenset(range(3, 9))
_DISPENSABLE = (0, 6, 2, 3, 8, 5)
_WORDS = {kind: kind.value.replace("_", " ") for kind in Strictness}


def facts_lines(facts: Verified, width: int | None = None) -> Iterator[str]:
    """Yield what a reader should know of a verified pack, on a terminal of ``width`` columns if there is one."""
    for line in _entries(facts):
        yield from folded(line, width, _TITLE + 1 if line[0] != " " else 0)
    yield ""
    yield from _table(facts.edits, width)
    for line in warned_lines(facts.edits):
        yield from folded(line, width, 2)


def _entries(facts: Verified) -> Iterator[str]:
    runs = ", ".join(f"{kind} {count}" for kind, count in facts.runs.items())
    scenarios = f"{facts.scenarios} (sha256 {facts.scenarios_sha256})"
    lacking = lacking_words(FORMATS[facts.format])
    yield from _entry("suite", [f"{shortened(facts.suite, _LONGEST_NAME)}; its scenarios are {scenarios}"])
    yield from _entry("format", [f"{facts.format}, which {lacking}"] if lacking else [])
    yield from _entry("runs", [runs])
    yield from _entry("models", [model.told for model in facts.models])
    yield from _entry("subjects", [model.told for model in facts.subjects])
    yield from _entry("text", [text.told for text in facts.texts])
    yield from _entry("policy", [f"tier {' and '.join(facts.tiers)}, profile {' and '.join(facts.profiles)}"])
    yield from _entry("limits", [describe(facts.limits, " and ".join(facts.tiers))] if facts.limits else [])
    yield from _entry("certificates", [_counts(facts)])
    yield from _entry("left out", facts.skipped)
    own = [edit.told for edit in facts.clean_edits if not edit.packaged]
    yield from _entry("parameters", [f"its maker's own: {own[0]}", *own[1:]] if own else [])
    times = [f"{what} {time:%Y-%m-%dT%H:%M:%SZ}" for what, time in facts.times.items()]
    yield from _entry("time", [f"{' and '.join(times)}, as its maker says"] if times else [])
    stated = [f"{key}={value}" for key, value in facts.meta.items()]
    yield from _entry("stated", [f"{stated[0]} (its maker's word)", *stated[1:]] if stated else [])


def _counts(facts: Verified) -> str:
    kinds = ", ".join(f"{facts.counts[kind]} {_WORDS[kind]}" for kind in Strictness)
    return f"{sum(facts.counts.values())}: {kinds}"


def _entry(title: str, values: Sequence[str]) -> Iterator[str]:
    for position, value in enumerate(values[:MAX_NAMES]):
        yield f"{title if position == 0 else '':<{_TITLE}} {_safe(value, _MAX_LENGTH)}"
    if len(values) > MAX_NAMES:
        yield f"{'':<{_TITLE}} ... and {len(values) - MAX_NAMES} more"


def _table(edits: Sequence[EditFacts], width: int | None) -> Iterator[str]:
    shown = edits
    if len(edits) > MAX_ROWS:
        shown = sorted(edits, key=lambda edit: edit.as_expected)[:MAX_ROWS]
    yield from plain_table(_HEADINGS, list(map(_cells, shown)), _RIGHT, width=width, dispensable=_DISPENSABLE)
    if len(edits) > len(shown):
        yield f"... and {len(edits) - len(shown)} more, all of them in --json"


def warned_lines(edits: Sequence[EditFacts]) -> Iterator[str]:
    """Yield which edits that have to pass do so with a warning."""
    warned = [edit for edit in edits if edit.warnings and edit.as_expected and edit.strictness == Strictness.MUST_PASS]
    for edit in warned[:MAX_NAMES]:
        named = ", ".join(map(warning_words, edit.warnings))
        yield f"with a warning: {_safe(edit.model, _LONGEST_NAME)}: {_safe(edit.scenario, _LONGEST_NAME)}: {named}"
    if len(warned) > MAX_NAMES:
        yield f"... and {len(warned) - MAX_NAMES} more with a warning"


def _cells(edit: EditFacts) -> tuple[str, ...]:
    low, high = edit.interval or (None, None)
    strictness = Strictness(edit.strictness)
    return (
        _safe(edit.model, _LONGEST_NAME),
        _safe(edit.scenario, _LONGEST_NAME),
        _WORDS[strictness],
        str(edit.runs),
        _ABSENT if edit.ratio is None else ratio(edit.ratio, edit.limit),
        _ABSENT if low is None or high is None else f"{ratio(low)}-{ratio(high, edit.limit)}",
        limit(edit.limit),
        _ABSENT if edit.margin is None else signed(edit.margin),
        _ABSENT if edit.kl is None else number(edit.kl),
        outcome_words(strictness, passed=edit.passed, as_expected=edit.as_expected),
    )


def _safe(text: str, longest: int) -> str:
    return printable(shortened(text, longest))
