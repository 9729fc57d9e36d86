"""The demand that a certain suite was run: its scenarios, each as often, and none of them left out.

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
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack.terms.term import Judgement, Term
from pytest_proofpack.plan.suites import EMBEDDED, Suite, load_suite

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import Verified


@dataclass(frozen=True)
class WantedSuite:
    """A suite, as far as a pack can be compared with it."""

    suite: Suite
    scenarios_sha256: str
    limits: Mapping[str, float | str]


def _read(text: str) -> WantedSuite:
    if text not in EMBEDDED and not Path(text).is_file():
        raise ValueError(f"expected one of {', '.join(EMBEDDED)}, or a suite's TOML file")
    suite = load_suite(text)
    limits = {limit.name: limit.value for limit in limits_beside("balanced", "dev", {KEY: suite.limits})}
    try:
        return WantedSuite(suite, sha256_of(suite.scenarios), limits)
    except FormatError as error:
        raise ValueError(f"its scenarios have no digest: {error}") from error


def _judge(wanted: WantedSuite, facts: Verified) -> Judgement:
    differences = list(_differences(wanted, facts))
    return Judgement(not differences, "; ".join(differences) or "suite, scenarios and numbers of runs are these")


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


def _told(limits: Mapping[str, float | str]) -> str:
    return ", ".join(f"{name} {limit}" for name, limit in limits.items()) or "the tier's"


EXPECT_SUITE = Term(
    "expect-suite",
    "demand the scenarios and the runs of this suite: tiny, smollm2, subset, full, or a suite's TOML file",
    "NAME|FILE",
    _read,
    _judge,
)
