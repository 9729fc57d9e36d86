"""Guards of extensions: in the certificate, in its outcome, and before a verifier that has them or has not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.certificate.verdict import assess
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import Category, Scenario, Strictness
from pytest_proofpack.report import certificate_html
from tests.support.certificates import make_evidence, make_plan
from tests.support.foreign_guard import MILD, NEAR, TOO_LARGE, registered
from tests.support.markup import Page

Change = Callable[[JsonObject], object]
REQUEST = next(request for request in make_plan()[1].requests if request.scenario.id == "quant_4bit_clean")
UNKNOWN = (
    "foreign_guards.largest_weight: there is no guard of this name here, so nothing of it was recomputed: "
    "derived.passed, derived.ratio, derived.warned, derived.windows; its gates (largest_weight_ok) are the maker's word"
)


@cache
def _made(before: float, after: float | None) -> JsonObject:
    facts = {"baseline": {"largest": before}, "subject": {"largest": after}}
    with registered():
        return build_certificate(replace(make_evidence(REQUEST), foreign={"largest_weight": facts}))


def made(facts: JsonObject) -> JsonObject:
    return copy.deepcopy(_made(facts["baseline"]["largest"], facts["subject"]["largest"]))


@pytest.fixture
def known() -> Iterator[None]:
    with registered():
        yield


def forged(change: Change, facts: JsonObject = MILD, **options: bool) -> list[str]:
    document = made(facts)
    change(document)
    return check_certificate(finish_certificate(document), **options)


class TestInTheCertificate:
    def test_it_is_called_foreign_and_holds_all_that_it_was_judged_by(self) -> None:
        assert made(NEAR)["foreign_guards"] == {
            "largest_weight": {
                "policy": {"ratio_max": 2.0},
                "evidence": NEAR,
                "derived": {"ratio": 1.5, "windows": 80, "passed": True, "warned": True},
                "gates": {"largest_weight_ok": True},
                "warnings": ["largest_weight_near"],
                "signal": "largest_weight",
            }
        }
        assert made(MILD)["plugins"]["guards"][-1] == "largest_weight"

    def test_a_certificate_without_foreign_guards_says_nothing_of_them(self) -> None:
        with registered():
            assert "foreign_guards" not in build_certificate(make_evidence(REQUEST))

    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            (MILD, {"passed": True, "failed_gates": [], "warnings": [], "signals": []}),
            (NEAR, {"passed": True, "failed_gates": [], "warnings": ["largest_weight_near"], "signals": []}),
            (
                TOO_LARGE,
                {
                    "passed": False,
                    "failed_gates": ["largest_weight_ok"],
                    "warnings": ["largest_weight_near"],
                    "signals": ["largest_weight"],
                },
            ),
        ],
    )
    def test_its_gate_counts_in_the_outcome(self, facts: JsonObject, expected: JsonObject) -> None:
        document = made(facts)
        assert document["outcome"] == expected
        assert document["validation"]["largest_weight_ok"] is expected["passed"]

    def test_what_was_not_finite_is_null_and_fails(self) -> None:
        document = made({"baseline": {"largest": 2.0}, "subject": {"largest": None}})
        assert document["foreign_guards"]["largest_weight"]["derived"]["ratio"] is None
        assert document["outcome"]["failed_gates"] == ["largest_weight_ok"]

    def test_a_scenario_may_list_its_flag_as_a_detector(self) -> None:
        detector = {"kind": "validation_flag", "flag": "largest_weight_ok", "expected": False}
        scenario = Scenario("x", Category.STRESS, Strictness.MUST_FAIL, detectors=(detector,))
        assert assess(made(TOO_LARGE), scenario).as_expected
        assert not assess(made(MILD), scenario).as_expected

    def test_evidence_of_a_guard_that_nobody_registered_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="guard 'largest_weight' is unknown"):
            build_certificate(replace(make_evidence(REQUEST), foreign={"largest_weight": MILD}))

    def test_extensions_are_named_where_there_are_any(self) -> None:
        extension = {"name": "my_guards.py", "version": None, "sha256": "a" * 64}
        document = build_certificate(replace(make_evidence(REQUEST), extensions=(extension,)))
        assert document["provenance"]["extensions"] == [extension]
        assert check_certificate(document) == []
        assert "extensions" not in made(MILD)["provenance"]
        document["provenance"]["extensions"] = [{"name": "x"}]
        assert check_certificate(finish_certificate(document)) != []


@pytest.mark.usefixtures("known")
class TestWhoHasTheGuard:
    @pytest.mark.parametrize("facts", [MILD, NEAR, TOO_LARGE])
    def test_recomputes_it(self, facts: JsonObject) -> None:
        assert check_certificate(made(facts)) == []

    @pytest.mark.parametrize(
        ("change", "finding"),
        [
            (
                lambda block: block["derived"].update(ratio=1.1),
                "foreign_guards.largest_weight.derived.ratio: recorded 1.1, recomputed 0.5",
            ),
            (
                lambda block: block["derived"].update(bonus=1),
                "foreign_guards.largest_weight.derived.bonus: nothing in the evidence supports it",
            ),
            (
                lambda block: block["gates"].update(another_ok=True),
                "foreign_guards.largest_weight.gates.another_ok: nothing in the evidence supports it",
            ),
            (
                lambda block: block["policy"].update(ratio_max=3.0),
                "foreign_guards.largest_weight.policy.ratio_max is 3.0, the guard itself has 2.0",
            ),
            (
                lambda block: block["evidence"]["baseline"].update(largest=0),
                "cannot be recomputed: foreign_guards.largest_weight: baseline.largest: expected a positive number",
            ),
            (lambda block: block.update(evidence={}), "cannot be recomputed: the evidence is incomplete or malformed"),
            (lambda block: block.pop("signal"), "foreign_guards.largest_weight: 'signal' is a required property"),
        ],
    )
    def test_finds_what_was_changed(self, change: Change, finding: str) -> None:
        findings = forged(lambda document: change(document["foreign_guards"]["largest_weight"]))
        assert any(found.startswith(finding) for found in findings), findings

    def test_finds_a_failed_gate_that_was_painted_over(self) -> None:
        def paint(document: JsonObject) -> None:
            document["foreign_guards"]["largest_weight"]["gates"]["largest_weight_ok"] = True
            document["validation"]["largest_weight_ok"] = True
            document["outcome"] = made(MILD)["outcome"]

        findings = forged(paint, TOO_LARGE)
        assert "validation.largest_weight_ok: recorded True, recomputed False" in findings

    def test_a_stricter_threshold_may_be_recorded_and_counts(self) -> None:
        def tighten(document: JsonObject) -> None:
            document["foreign_guards"]["largest_weight"]["policy"]["ratio_max"] = 1.5

        too_large = {"baseline": {"largest": 2.0}, "subject": {"largest": 3.5}}
        assert forged(tighten) == []
        findings = forged(tighten, too_large)
        assert "foreign_guards.largest_weight.derived.passed: recorded True, recomputed False" in findings


class TestWhoHasNot:
    def test_says_what_was_not_recomputed(self) -> None:
        assert check_certificate(made(MILD)) == [UNKNOWN]

    @pytest.mark.parametrize("facts", [MILD, NEAR, TOO_LARGE])
    def test_passes_if_told_so(self, facts: JsonObject) -> None:
        assert check_certificate(made(facts), allow_unknown_guards=True) == []

    def test_still_counts_the_outcome_again(self) -> None:
        def paint(document: JsonObject) -> None:
            document["outcome"] = made(MILD)["outcome"]

        findings = forged(paint, TOO_LARGE, allow_unknown_guards=True)
        assert "outcome.passed: recorded True, recomputed False" in findings

    def test_no_flag_of_another_gate_can_be_taken(self) -> None:
        def take(document: JsonObject) -> None:
            document["foreign_guards"]["largest_weight"]["gates"] = {"spectral_stable": True}

        findings = forged(take, allow_unknown_guards=True)
        assert findings == [
            "cannot be recomputed: foreign_guards.largest_weight: the flag 'spectral_stable' is another guard's"
        ]

    def test_no_flag_stands_in_validation_that_no_guard_raised(self) -> None:
        findings = forged(lambda document: document["validation"].update(bonus_ok=True), allow_unknown_guards=True)
        assert findings == ["validation.bonus_ok: nothing in the evidence supports it"]


class TestPage:
    def test_the_gate_and_the_numbers_are_shown_and_called_foreign(self) -> None:
        with registered():
            page = Page(certificate_html(made(TOO_LARGE)))
        assert page.row("Largest weight ok") == ["Largest weight ok", "✗failed", "", "ratio 2.5", "at most 2.0"]
        assert "Judges what an extension looks at" in page.text

    def test_without_the_guard_there_are_no_words_for_it(self) -> None:
        page = Page(certificate_html(made(TOO_LARGE)))
        assert page.row("Largest weight ok")[1:4] == ["✗failed", "", "see its block"]
