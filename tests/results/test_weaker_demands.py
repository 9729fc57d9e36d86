"""What was demanded before decides what counts, and a comparison says it where less is demanded after."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import JsonObject, pretty_json
from pytest_proofpack.plan.records import Category, Scenario, Strictness, SubjectEdit
from pytest_proofpack.results.comparison import Change, Comparison, compare
from pytest_proofpack.results.opened import open_results
from pytest_proofpack.results.weaker import weaker_demand, weaker_judges
from tests.results.conftest import QUANT, Command
from tests.support.certificates import make_evidence, make_plan
from tests.support.forgery import change_document

DOUBLED = 0.7
STRESS = "prune_50pct_stress"
FAULT = "scale_explosion"


def certificate(scenario: str = "quant_4bit_clean", shift: float = 0.01, **changes: Any) -> JsonObject:
    request = next(one for one in make_plan()[1].requests if one.scenario.id == scenario)
    return build_certificate(replace(make_evidence(request, shift=shift), **changes))


@pytest.fixture
def demanding(run_directory: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of the run that demands something else of a scenario."""

    def made(scenario: str, strictness: str, quant: JsonObject | None = None) -> Path:
        folder = Path(shutil.copytree(run_directory, tmp_path / f"{scenario}-{strictness}-{quant is None}"))
        change_document(
            folder / "state/scenarios.json",
            lambda document: [
                one.update(strictness=strictness) for one in document["scenarios"] if one["id"] == scenario
            ],
        )
        if quant is not None:
            (folder / QUANT).write_text(pretty_json(quant))
        return folder

    return made


@pytest.fixture
def alone(tmp_path: Path) -> Callable[[str, JsonObject], Path]:
    def made(name: str, document: JsonObject) -> Path:
        (tmp_path / name).write_text(pretty_json(document))
        return tmp_path / name

    return made


def compared(before: Path, after: Path) -> tuple[Comparison, dict[str, Change]]:
    comparison = compare(open_results(before), open_results(after))
    return comparison, {change.scenario: change for change in comparison.changes}


@pytest.mark.parametrize(
    ("scenario", "demands", "weaker"),
    [
        ("quant_4bit_clean", ("must_pass", "informational"), True),
        (STRESS, ("must_fail", "informational"), True),
        (STRESS, ("must_fail", "must_detect"), True),
        (FAULT, ("must_detect", "informational"), True),
        (FAULT, ("must_detect", "must_fail"), False),
        ("quant_4bit_clean", ("informational", "must_pass"), False),
        ("quant_4bit_clean", ("informational", "informational"), False),
    ],
)
def test_a_weaker_demand_is_a_regression(
    scenario: str, demands: tuple[str, str], weaker: bool, demanding: Callable[..., Path], proofpack: Command
) -> None:
    before = demanding(scenario, demands[0], certificate())
    after = demanding(scenario, demands[1])
    changes = compared(before, after)[1]
    told = (f"less is demanded of it: {demands[0].replace('_', ' ')}, then {demands[1].replace('_', ' ')}",)
    assert changes[scenario].regressions == (told if weaker else ())
    assert changes[scenario].strictness == demands[0]
    assert not any(change.regressions for name, change in changes.items() if name != scenario)
    assert proofpack("compare", before, after) == (1 if weaker else 0)


def test_what_had_to_pass_counts_though_it_is_informational_now(
    run_directory: Path, demanding: Callable[..., Path]
) -> None:
    doubled = certificate(shift=DOUBLED)
    after = demanding("quant_4bit_clean", "informational", doubled)
    change = compared(run_directory, after)[1]["quant_4bit_clean"]
    assert [line.split()[0] for line in change.regressions] == ["perplexity", "fails", "less"]
    # And what was informational on both sides never does.
    comparison, changes = compared(demanding("quant_4bit_clean", "informational"), after)
    assert (changes["quant_4bit_clean"].status, comparison.regressions) == ("worse", ())


@pytest.mark.parametrize("scenarios", [("quant_4bit_clean", STRESS), (STRESS, "quant_4bit_clean"), (STRESS, FAULT)])
def test_two_certificates_of_different_scenarios_are_judged_by_their_numbers(
    scenarios: tuple[str, str],
    alone: Callable[[str, JsonObject], Path],
    proofpack: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    better, worse = certificate(scenarios[0]), certificate(scenarios[1], shift=DOUBLED)
    sides = alone("a.json", better), alone("b.json", worse)
    assert proofpack("compare", *sides) == 1
    printed = capsys.readouterr().out
    assert "REGRESSION: perplexity up by as much as" in printed
    assert f"another scenario: {scenarios[0]}, then {scenarios[1]}" in printed
    assert "less is demanded" not in printed, "nobody states what is"
    assert proofpack("compare", *reversed(sides)) == 0


def test_looser_limits_are_a_regression_and_stricter_ones_are_not(alone: Callable[[str, JsonObject], Path]) -> None:
    sides = [
        alone(f"{number}.json", certificate(policy=policy))
        for number, policy in enumerate(
            [
                resolve_policy("conservative"),
                resolve_policy("balanced"),
                resolve_policy("balanced", limits={"primary_metric": {"ratio_limit": 1.3}}),
                resolve_policy("aggressive"),
            ]
        )
    ]
    (line,) = compared(sides[0], sides[1])[1]["quant_4bit_clean"].regressions
    assert line.startswith("looser limits: primary_metric.ratio_limit 1.05, then 1.1; ")
    own = compared(sides[1], sides[2])[1]["quant_4bit_clean"].regressions
    assert own == ("looser limits: primary_metric.ratio_limit 1.1, then 1.3",)
    assert compared(sides[1], sides[3])[0].regressions
    assert not compared(sides[3], sides[1])[0].regressions
    assert not compared(sides[2], sides[0])[0].regressions
    stress = [
        alone(f"{tier}.json", certificate(STRESS, policy=resolve_policy(tier))) for tier in ("balanced", "aggressive")
    ]
    assert not compared(*stress)[0].regressions, "they only make it harder to be caught"


class TestJudges:
    """What two certificates were judged by; made-up ones, of which only that is looked at."""

    def judged(self, change: Callable[[JsonObject], object]) -> list[str]:
        before = certificate()
        before["foreign_guards"] = {"mine": {"policy": {"most": 1.0}, "gates": {"mine_holds": True}}}
        after = copy.deepcopy(before)
        change(after)
        return list(weaker_judges(before, after))

    def test_the_same(self) -> None:
        assert self.judged(lambda _: None) == []

    def test_a_limit_that_is_gone_or_none(self) -> None:
        assert self.judged(lambda after: after["resolved_policy"]["primary_metric"].pop("min_tokens")) == [
            "looser limits: primary_metric.min_tokens 50000, then none"
        ]
        policy = {"ratio_limit": True}
        assert self.judged(lambda after: after["resolved_policy"]["primary_metric"].update(policy)) == [
            "looser limits: primary_metric.ratio_limit 1.1, then True"
        ]

    def test_the_tail_that_only_warns(self) -> None:
        before = certificate(policy=resolve_policy("balanced", "release"))
        assert any("primary_metric_tail.mode fail, then warn" in line for line in weaker_judges(before, certificate()))

    def test_an_extensions_guard_that_is_gone_or_has_other_limits(self) -> None:
        assert self.judged(lambda after: after.pop("foreign_guards")) == ["less is judged, not any more by: mine holds"]
        assert self.judged(lambda after: after["foreign_guards"]["mine"].update(policy={"most": 9.0})) == [
            "other limits of the guard mine, which is not known here"
        ]

    def test_an_earlier_format(self) -> None:
        (line,) = self.judged(lambda after: [after.pop("certificate_format"), after.pop("foreign_guards")])
        assert line.startswith("less is judged: certificates of format 2, then 1, so not any more by: ")
        assert "direction of weights" in line
        before = certificate()
        before.pop("certificate_format")
        assert list(weaker_judges(before, certificate())) == []


def test_an_unchanged_model_that_may_change() -> None:
    sides = [
        Scenario("same", Category.BYOE, Strictness.MUST_PASS, subject=SubjectEdit(label, "given", "m", digest="d" * 64))
        for label in ("noop", "pruned")
    ]
    assert list(weaker_demand(*sides)) == ["less is demanded of it: no difference at all, then to pass"]
    assert list(weaker_demand(*reversed(sides))) == []
