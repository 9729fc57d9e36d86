"""The demand that a certain suite was run: its scenarios and clean edits, each as often, and none of them left out.

Models and text may be others, for whoever runs a suite may choose them; they have terms of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.certificate.limits import KEY
from pytest_proofpack.certificate.policy import limits_beside
from pytest_proofpack.common.strict_json import sha256_of
from pytest_proofpack.common.words import first_of
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack.clean_edits import CleanEditFacts, values_of, values_told
from pytest_proofpack.pack.terms.term import Judgement, Term
from pytest_proofpack.plan.requested_edits import clean_edit
from pytest_proofpack.plan.suites import EMBEDDED, Suite, load_suite

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import Verified

OWN = ":own-parameters"
"""Behind a suite's name: its clean edits with whatever parameters the pack says, for who has read or tuned them."""
_SHOWN = 3


@dataclass(frozen=True)
class WantedSuite:
    """A suite, as far as a pack can be compared with it; ``own_parameters`` tells whether its clean edits need not."""

    suite: Suite
    own_parameters: bool
    scenarios_sha256: str
    limits: Mapping[str, float | str]


def _read(given: str) -> WantedSuite:
    text = given.removesuffix(OWN)
    if text not in EMBEDDED and not Path(text).is_file():
        raise ValueError(f"expected one of {', '.join(EMBEDDED)}, or a suite's TOML file")
    suite = load_suite(text)
    limits = {limit.name: limit.value for limit in limits_beside("balanced", "dev", {KEY: suite.limits})}
    try:
        return WantedSuite(suite, text != given, sha256_of(suite.scenarios), limits)
    except FormatError as error:
        raise ValueError(f"its scenarios have no digest: {error}") from error


def _judge(wanted: WantedSuite, facts: Verified) -> Judgement:
    differences = list(_differences(wanted, facts))
    return Judgement(
        not differences, "; ".join(differences) or "suite, scenarios, clean edits and numbers of runs are these"
    )


def _differences(wanted: WantedSuite, facts: Verified) -> Iterator[str]:
    if facts.suite != wanted.suite.name:
        yield f"the pack's suite is called {facts.suite}"
    if facts.scenarios_sha256 != wanted.scenarios_sha256:
        yield f"its scenarios are {facts.scenarios}"
    for kind, number in wanted.suite.runs.items():
        if facts.runs.get(kind, 0) < number:
            yield f"{kind} runs {facts.runs.get(kind, 0)} times, not {number}"
    limits = {limit.name: limit.value for limit in facts.limits}
    if limits != wanted.limits:
        yield f"its limits are {_told(limits)}, not {_told(wanted.limits)}"
    if facts.skipped:
        yield f"{len(facts.skipped)} edits were left out: {', '.join(facts.skipped)}"
    if not wanted.own_parameters:
        others = [told for edit in facts.clean_edits if (told := _other_parameters(edit, wanted.suite))]
        if others:
            advice = f"{wanted.suite.name}{OWN} accepts them"
            yield f"parameters of its maker's own: {first_of(others, _SHOWN, '; ')}. {advice}"


def _other_parameters(edit: CleanEditFacts, suite: Suite) -> str:
    """Say in which parameters a clean edit is not the suite's; empty if it is."""
    own, name = edit.values, f"{edit.scenario} of {edit.model}"
    wanted = clean_edit(edit.type, edit.model, suite.tuned)
    if wanted is None:
        return f"{name} has {values_told(own)}, and the suite has none for it"
    suites = values_of(wanted)
    differing = [key for key in {**suites, **own} if own.get(key) != suites.get(key)]
    told = [f"{key} {own.get(key, 'not said')}, not {suites.get(key, 'said')}" for key in differing]
    return f"{name} has {', '.join(told)}" if told else ""


def _told(limits: Mapping[str, float | str]) -> str:
    return ", ".join(f"{name} {limit}" for name, limit in limits.items()) or "the tier's"


EXPECT_SUITE = Term(
    "expect-suite",
    "demand the scenarios, clean edits and runs of this suite: tiny, smollm2, subset, full, or a suite's TOML file",
    "NAME|FILE",
    _read,
    _judge,
    by_gates=True,
)
