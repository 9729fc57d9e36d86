"""Two results against each other: of every edit of every model whether it got better or worse, or why nobody can say.

What counts is what was demanded before. An edit that had to pass may not become worse by more than is allowed: as with
a certificate's own limit, it is the upper end of the interval that counts, so what cannot be told from a regression is
one. And so is it where less is demanded after: that an edit is as expected says less then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from pytest_proofpack.certificate.explain import gate_words
from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.metric import resamples
from pytest_proofpack.certificate.verdict import assess
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable, shortened
from pytest_proofpack.errors import VerificationError
from pytest_proofpack.pack.verified import EditFacts
from pytest_proofpack.plan.expected import all_scenarios
from pytest_proofpack.plan.records import Category, Scenario, Strictness
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
from pytest_proofpack.results.weaker import weaker_demand, weaker_judges

FORMAT = "proof-pack-comparison-v1"
MAX_REGRESSION = 0.01
"""By how much perplexity may rise, relative: one per cent."""
_LONGEST = 60


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
        strictness: the demand that counts: what the verdict demanded of it before; after, if it is new.
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
    """One edit on one side: its worst run, its certificates, and its scenario, where the result states it."""

    facts: EditFacts
    certificates: Sequence[JsonObject]
    stated: Scenario | None

    @property
    def assumed(self) -> Scenario:
        """What is demanded where nobody states it: see :func:`row_alone`."""
        category = Category(self.certificates[0]["scenario"]["category"])
        return Scenario(self.facts.scenario, category, Strictness(self.facts.strictness))

    def meets(self, demand: Scenario) -> bool:
        """Tell whether every run is what a scenario demands, be it of the other side."""
        return all(assess(one, demand).as_expected for one in self.certificates)

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
    stated = {one.id: one for one in all_scenarios(dict(results.scenarios))} if results.scenarios else {}
    return {
        (edit.model, edit.scenario): _Side(edit, groups[edit.model, edit.scenario], stated.get(edit.scenario))
        for edit in results.edits
    }


def _demand(before: _Side, after: _Side) -> Scenario:
    """Return the demand that counts: that of before. Where nobody states it, an edit that may have to pass has to."""
    if before.stated is not None:
        return before.stated
    assumed = before.assumed
    if before.facts.scenario != after.facts.scenario:  # two certificates, which somebody wants to compare all the same
        return replace(assumed, strictness=Strictness.MUST_PASS)
    return assumed if assumed.strictness is Strictness.MUST_PASS else after.stated or assumed


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
    demand = _demand(before, after)
    regressions = [
        *_worse_numbers(demand, difference, status, limit),
        *_worse_outcome(before, after, demand, judges),
        *_weaker(before, after, demand),
    ]
    return Change(
        model=after.facts.model,
        scenario=after.facts.scenario,
        strictness=demand.strictness,
        status=status,
        before=before.facts,
        after=after.facts,
        difference=difference,
        failed_gates=(before.failed_gates, after.failed_gates) if _same_gates(first, second) else ((), ()),
        why=tuple(why),
        remarks=(*_other_names(before.facts, after.facts), *judges, *remarks(first, second)),
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


def _worse_numbers(demand: Scenario, difference: Difference | None, status: Status, limit: float) -> Iterator[str]:
    if demand.strictness is not Strictness.MUST_PASS:
        return
    if difference is not None and max(difference.ratio, difference.interval[1]) > 1.0 + limit:
        upper = max(difference.ratio, difference.interval[1]) - 1.0
        yield f"perplexity up by as much as {100 * upper:.2f} %, more than the {100 * limit:.2f} % allowed"
    elif difference is None and status is Status.WORSE:
        yield "its loss is not finite any more"


def _worse_outcome(before: _Side, after: _Side, demand: Scenario, judges: list[str]) -> Iterator[str]:
    """Say whether an edit was what was demanded before, and is not any more; under other limits that says nothing.

    And whether it is not what is demanded now: a demand that has become stricter counts, too.
    """
    if judges:
        return
    wanted = demand if before.meets(demand) and not after.meets(demand) else None
    if wanted is None and after.stated is not None and before.facts.as_expected and not after.facts.as_expected:
        wanted = after.stated
    if wanted is None:
        return
    if wanted.strictness is Strictness.MUST_PASS:
        failed = [gate_words(gate) for gate in after.failed_gates if gate not in before.failed_gates]
        yield f"fails {', '.join(failed) or 'though it passed'}"
    else:
        yield "is not caught any more"


def _weaker(before: _Side, after: _Side, demand: Scenario) -> Iterator[str]:
    """Say what less is demanded after. Looser limits make it harder to be caught, so they count of what must pass."""
    if before.stated is not None and after.stated is not None:
        yield from weaker_demand(before.stated, after.stated)
    if demand.strictness is Strictness.MUST_PASS:
        first = before.certificates[0]
        yield from dict.fromkeys(line for one in after.certificates for line in weaker_judges(first, one))


def _other_names(before: EditFacts, after: EditFacts) -> Iterator[str]:
    for what in ("model", "scenario"):
        names = [printable(shortened(getattr(side, what), _LONGEST)) for side in (before, after)]
        if getattr(before, what) != getattr(after, what):
            yield f"another {what}: {names[0]}, then {names[1]}"
