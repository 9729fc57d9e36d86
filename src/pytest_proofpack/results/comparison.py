"""Two results against each other: of every edit of every model whether it got better or worse, or why nobody can say.

An edit that must pass may not become worse by more than is allowed: as with a certificate's own limit, it is the upper
end of the interval that counts, so what cannot be told from a regression is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from pytest_proofpack.certificate.explain import gate_words
from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.metric import resamples
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import VerificationError
from pytest_proofpack.pack.verified import EditFacts
from pytest_proofpack.plan.records import Strictness
from pytest_proofpack.results.differences import (
    Difference,
    Windows,
    edit_windows,
    is_finite,
    obstacles,
    other_judges,
    paired_difference,
    remarks,
)
from pytest_proofpack.results.opened import CERTIFICATE, Results

FORMAT = "proof-pack-comparison-v1"
MAX_REGRESSION = 0.01
"""By how much perplexity may rise, relative: one per cent."""


class Status(StrEnum):
    """What became of an edit. ``SAME``: the interval holds 1, so nothing can be told apart."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    INCOMPARABLE = "incomparable"
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True)
class Change:
    """One scenario of one model, before and after.

    Attributes:
        model: its id.
        scenario: its id.
        strictness: what the verdict demands of it, after; before, if it is gone.
        status: what became of it.
        before: its worst run before; None if it is new.
        after: its worst run after; None if it is gone.
        difference: by how much it changed, where the same windows were measured.
        failed_gates: the gates that fail in any run, before and after; empty where certificates of another format have
            others.
        why: why it is incomparable, a line each; printable.
        remarks: what else is not the same; printable.
        regressions: why it counts as one, a line each; none if it does not.
    """

    model: str
    scenario: str
    strictness: str
    status: Status
    before: EditFacts | None
    after: EditFacts | None
    difference: Difference | None = None
    failed_gates: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    why: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    regressions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Two results, compared.

    Attributes:
        before: what was there first.
        after: what it is compared with.
        max_regression: by how much the perplexity of an edit that must pass may rise, relative.
        changes: every edit of either.
    """

    before: Results
    after: Results
    max_regression: float
    changes: tuple[Change, ...] = field(default_factory=tuple)

    @property
    def regressions(self) -> tuple[Change, ...]:
        """What got worse by more than is allowed, or is not there any more."""
        return tuple(change for change in self.changes if change.regressions)

    @property
    def incomparable(self) -> tuple[Change, ...]:
        """The edits that must pass and of which nothing can be said."""
        return tuple(
            change
            for change in self.changes
            if change.status is Status.INCOMPARABLE and change.strictness == Strictness.MUST_PASS
        )

    def to_json(self) -> JsonObject:
        """Return the JSON form; its strings are as the results have them."""
        return {
            "format": FORMAT,
            "before": self.before.heading,
            "after": self.after.heading,
            "max_regression": self.max_regression,
            "regressions": len(self.regressions),
            "incomparable": len(self.incomparable),
            "changes": [{**asdict(change), "status": change.status.value} for change in self.changes],
        }


def compare(before: Results, after: Results, max_regression: float = MAX_REGRESSION) -> Comparison:
    """Compare two results, edit by edit.

    Two single certificates are compared whatever their models and scenarios are called.

    Args:
        before: what was there first.
        after: what is compared with it.
        max_regression: by how much the perplexity of an edit that must pass may rise, relative.

    Raises:
        FormatError: of a result that was not verified: its windows are none.
        VerificationError: the results hold more windows than are resampled.
    """
    sides = _sides(before), _sides(after)
    if before.kind == after.kind == CERTIFICATE:
        sides = sides[0], dict(zip(sides[0], sides[1].values(), strict=True))
    budget = _Budget(BUDGETS.all_resamples(len(before.certificates) + len(after.certificates)))
    keys = list(dict.fromkeys([*sides[0], *sides[1]]))
    changes = [_change(sides[0].get(key), sides[1].get(key), max_regression, budget) for key in keys]
    return Comparison(before, after, max_regression, tuple(_with_another_name(changes)))


def _with_another_name(changes: Sequence[Change]) -> Iterator[Change]:
    """Say of an edit that is gone, where a model has just one of those and a new one, how the two can be compared."""
    for change in changes:
        found = {
            status: [one for one in changes if (one.model, one.status) == (change.model, status)]
            for status in (Status.NEW, Status.GONE)
        }
        if change.status is Status.GONE and len(found[Status.NEW]) == len(found[Status.GONE]) == 1:
            new = printable(found[Status.NEW][0].scenario)
            advice = f"{new} is new, and edits are compared by name; compare these two by their evaluation.cert.json"
            yield replace(change, remarks=(*change.remarks, advice))
        else:
            yield change


@dataclass(frozen=True)
class _Side:
    """One edit on one side: its worst run, and its certificates."""

    facts: EditFacts
    certificates: Sequence[JsonObject]

    @property
    def failed_gates(self) -> tuple[str, ...]:
        gates = (gate for one in self.certificates for gate in one["outcome"]["failed_gates"])
        return tuple(dict.fromkeys(printable(gate) for gate in gates))


class _Budget:
    """What may still be resampled."""

    def __init__(self, windows: int) -> None:
        self._left = windows

    def spend(self, windows: int, replicates: int) -> None:
        self._left -= min(resamples(windows, replicates), BUDGETS.resamples)
        if self._left < 0:
            raise VerificationError("more windows than are resampled for two results; no honest ones have so many")


def _sides(results: Results) -> dict[tuple[str, str], _Side]:
    groups = results.groups
    return {(edit.model, edit.scenario): _Side(edit, groups[edit.model, edit.scenario]) for edit in results.edits}


def _change(before: _Side | None, after: _Side | None, limit: float, budget: _Budget) -> Change:
    if before is None or after is None:
        return _one_sided(before, after)
    first, second = before.certificates[0], after.certificates[0]
    why, judges = list(obstacles(first, second)), list(other_judges(first, second))
    difference: Difference | None = None
    status = Status.INCOMPARABLE
    if not why:
        difference, status, problem = _measured(before, after, budget)
        why += [problem] if problem is not None else []
    regressions = [*_worse_numbers(before, after, difference, status, limit), *_worse_outcome(before, after, judges)]
    return Change(
        model=after.facts.model,
        scenario=after.facts.scenario,
        strictness=after.facts.strictness,
        status=status,
        before=before.facts,
        after=after.facts,
        difference=difference,
        failed_gates=(before.failed_gates, after.failed_gates) if _same_gates(first, second) else ((), ()),
        why=tuple(why),
        remarks=(*judges, *remarks(first, second)),
        regressions=tuple(regressions),
    )


def _same_gates(before: JsonObject, after: JsonObject) -> bool:
    """Tell whether gates of one name judge the same: in one format they do."""
    return format_of(before) is format_of(after)


def _one_sided(before: _Side | None, after: _Side | None) -> Change:
    side = before or after
    assert side is not None
    facts, gates = side.facts, side.failed_gates
    gone = after is None and facts.strictness != Strictness.INFORMATIONAL
    return Change(
        model=facts.model,
        scenario=facts.scenario,
        strictness=facts.strictness,
        status=Status.GONE if after is None else Status.NEW,
        before=facts if after is None else None,
        after=facts if before is None else None,
        failed_gates=(gates, ()) if after is None else ((), gates),
        regressions=("it is not there any more",) if gone else (),
    )


def _measured(before: _Side, after: _Side, budget: _Budget) -> tuple[Difference | None, Status, str | None]:
    """Return by how much an edit changed, what that means, and why it cannot be said."""
    windows = edit_windows(before.certificates), edit_windows(after.certificates)
    bootstrap = after.certificates[0]["dataset"]["windows"]["stats"]["bootstrap"]
    budget.spend(min(map(len, windows)), bootstrap["replicates"])
    found = paired_difference(*windows, bootstrap)
    if isinstance(found, str):
        return None, _by_finiteness(*windows), found
    low, high = found.interval
    return found, Status.WORSE if low > 1.0 else Status.BETTER if high < 1.0 else Status.SAME, None


def _by_finiteness(before: Windows, after: Windows) -> Status:
    """Tell what became of an edit that has no perplexity on one side, or on both."""
    finite = is_finite(before), is_finite(after)
    if all(finite):
        return Status.INCOMPARABLE
    return {(True, False): Status.WORSE, (False, True): Status.BETTER}.get(finite, Status.SAME)


def _worse_numbers(
    before: _Side, after: _Side, difference: Difference | None, status: Status, limit: float
) -> Iterator[str]:
    if after.facts.strictness != Strictness.MUST_PASS or before.facts.strictness != Strictness.MUST_PASS:
        return
    if difference is not None and max(difference.ratio, difference.interval[1]) > 1.0 + limit:
        upper = max(difference.ratio, difference.interval[1]) - 1.0
        yield f"perplexity up by as much as {100 * upper:.2f} %, more than the {100 * limit:.2f} % allowed"
    elif difference is None and status is Status.WORSE:
        yield "its loss is not finite any more"


def _worse_outcome(before: _Side, after: _Side, judges: list[str]) -> Iterator[str]:
    """Say whether an edit was what its scenario demands, and is not any more; under other limits that says nothing."""
    if judges or not before.facts.as_expected or after.facts.as_expected:
        return
    if after.facts.strictness == Strictness.MUST_PASS:
        failed = [gate_words(gate) for gate in after.failed_gates if gate not in before.failed_gates]
        yield f"fails {', '.join(failed) or 'though it passed'}"
    elif after.facts.strictness != Strictness.INFORMATIONAL:
        yield "is not caught any more"
