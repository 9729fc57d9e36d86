"""Certificates of one pack against each other: what has to be equal to the last digit, and what comparing costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest

from pytest_proofpack.certificate import agreement
from pytest_proofpack.certificate.agreement import MAX_CAMPS, disagreements
from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import JsonObject
from tests.support.certificates import make_evidence, make_plan

Change = Callable[[JsonObject], object]


@cache
def _certificate() -> JsonObject:
    return build_certificate(make_evidence(make_plan()[1].requests[0]))


def said_by(changes: Sequence[Change]) -> list[str]:
    """Return what is found among certificates that are one and the same but for these changes, by their numbers."""
    certificates = {}
    for number, change in enumerate(changes):
        certificates[f"{number:03d}"] = certificate = copy.deepcopy(_certificate())
        change(certificate)
    return list(disagreements(certificates))


def nothing(certificate: JsonObject) -> None:
    """Leave it as it is."""


def another_policy_of_the_same_digest(certificate: JsonObject) -> None:
    """As who has found two policies whose short digests are equal."""
    looser = resolve_policy("balanced", limits={"primary_metric": {"ratio_limit": 1.5}})
    certificate["resolved_policy"] = looser.thresholds
    certificate["policy_provenance"]["overrides"] = looser.overrides


def test_one_certificate_says_nothing_against_itself() -> None:
    assert said_by([nothing, nothing, nothing]) == []


def test_policies_are_compared_and_not_their_short_digests() -> None:
    assert said_by([nothing, another_policy_of_the_same_digest, nothing]) == [
        "001: policy_provenance.overrides: contradicts what 000 says of the run",
        "001: resolved_policy: contradicts what 000 says of the run",
    ]


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda own: own["resolved_policy"]["primary_metric"].update(ratio_limit=1.1 * (1 + 1e-9)), "resolved_policy"),
        (lambda own: own["dataset"].update(options={"share": 0.5 + 1e-9}), "dataset.options"),
    ],
)
def test_what_nobody_measured_is_equal_to_the_last_digit(change: Change, fact: str) -> None:
    def before(own: JsonObject) -> None:
        own["dataset"]["options"] = {"share": 0.5}

    def other(own: JsonObject) -> None:
        before(own)
        change(own)

    assert said_by([before, before, other]) == [f"002: {fact}: contradicts what 000 says of the run"]


def test_thresholds_of_an_extensions_guard_are_the_runs() -> None:
    def guard(limit: float) -> Change:
        block = {"policy": {"max": limit}, "evidence": {"baseline": 1.0}}
        return lambda certificate: certificate.update(foreign_guards={"own": block})

    assert said_by([guard(1.0), guard(1.0), guard(1.00001)]) == [
        "002: foreign_guards.own.policy: contradicts what 000 says of the run"
    ]


def measured(*numbers: float) -> Change:
    """Return a change of what was measured on the unedited model, in a fact with room for many numbers."""
    return lambda certificate: certificate["rmt"].update(null_log_ratios={"attn": [*[0.5] * 50, *numbers]})


def test_every_opinion_beside_the_largest_camp_is_named() -> None:
    opinions = [measured(float(number)) for number in (1, 2, 3, 4, 5, 2, 2.00001)]
    assert said_by(opinions) == [
        f"{number}: rmt: null statistics: contradicts what 001 says of the same model"
        for number in ("000", "002", "003", "004")
    ]


@pytest.mark.parametrize("step", [0.0, 1e-9, 0.25], ids=["equal", "within what may differ", "all differ"])
def test_comparing_costs_in_proportion_to_what_there_is(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever certificates say: of a value that is not equal, so many numbers are looked at as there are camps."""
    looked_at = 0
    agree = agreement._agree

    def counted(one: Any, other: Any, slack: float) -> bool:
        nonlocal looked_at
        looked_at += 1
        return agree(one, other, slack)

    monkeypatch.setattr(agreement, "_agree", counted)
    for count in (10, 40):
        looked_at = 0
        said_by([measured(1.0 + number * step) for number in range(count)])
        windows = sum(len(_certificate()["evaluation_windows"][side]["window_ids"]) for side in ("preview", "final"))
        assert looked_at <= count * (windows + MAX_CAMPS * 60)
