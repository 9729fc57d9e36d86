"""One certificate in words: silent where all is well, and all the numbers where it is not."""

from __future__ import annotations

import textwrap
from dataclasses import replace

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.explain import (
    failed_gates,
    gate_words,
    one_line,
    outcome_word,
    outcome_words,
    remarks,
    unexpected,
)
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.invariants import compare_structure
from pytest_proofpack.plan.records import CertificateRequest, Scenario, Strictness
from tests.support.certificates import make_evidence, make_plan
from tests.support.mutations import replaced


def certified(scenario: str, shift: float | None = None) -> tuple[JsonObject, CertificateRequest]:
    request = next(request for request in make_plan()[1].requests if request.scenario.id == scenario)
    return build_certificate(make_evidence(request, shift=shift)), request


def broken(scenario: str) -> tuple[JsonObject, CertificateRequest]:
    """Return a certificate of a model whose losses are not finite."""
    _, request = certified(scenario)
    base = make_evidence(request)
    final = replace(base.subject.final, losses=(float("nan"),) * 80)
    return build_certificate(replace(base, subject=replace(base.subject, final=final))), request


class TestRemarks:
    def test_what_could_not_be_told_of_the_model_is_told_though_all_gates_pass(self) -> None:
        base = make_evidence(certified("calibration")[1])
        untold = ("a.b could not be probed and is classed as other: it raises",)
        baseline = replace(base.structures[0], inventory=replace(base.structures[0].inventory, warnings=untold))
        violations = compare_structure(baseline, base.structures[1], base.policy.section("invariants"))
        made = build_certificate(replace(base, structures=(baseline, base.structures[1]), violations=violations))
        assert made["outcome"] == {"passed": True, "failed_gates": [], "warnings": ["invariants"], "signals": []}
        assert remarks(made) == [f"{made['meta']['model_id']}: {untold[0]}"]
        assert remarks(build_certificate(base)) == []

    def test_a_label_that_does_not_hold(self) -> None:
        made = {**build_certificate(make_evidence(certified("calibration")[1])), "label": {"findings": ["labelled x"]}}
        assert remarks(made) == ["calibration: labelled x"]


@pytest.mark.parametrize(
    ("strictness", "as_expected", "word"),
    [
        (Strictness.MUST_PASS, True, "PASSED"),
        (Strictness.MUST_FAIL, True, "CAUGHT"),
        (Strictness.MUST_DETECT, True, "CAUGHT"),
        (Strictness.MUST_PASS, False, "FAILED"),
        (Strictness.MUST_FAIL, False, "FAILED"),
        (Strictness.INFORMATIONAL, True, "INFO"),
    ],
)
def test_the_word_for_an_outcome(strictness: Strictness, as_expected: bool, word: str) -> None:
    assert outcome_word(strictness, as_expected=as_expected) == word


@pytest.mark.parametrize(
    ("strictness", "passed", "as_expected", "words"),
    [
        (Strictness.MUST_PASS, True, True, "PASSED"),
        (Strictness.MUST_PASS, False, False, "FAILED"),
        (Strictness.MUST_FAIL, False, True, "CAUGHT"),
        (Strictness.MUST_FAIL, True, False, "FAILED, not caught"),
        (Strictness.MUST_DETECT, True, False, "FAILED, not caught"),
        (Strictness.INFORMATIONAL, False, True, "INFO, gates fail"),
        (Strictness.INFORMATIONAL, True, True, "INFO, gates hold"),
    ],
)
def test_words_for_an_outcome_say_what_its_word_leaves_open(
    strictness: Strictness, passed: bool, as_expected: bool, words: str
) -> None:
    assert outcome_words(strictness, passed=passed, as_expected=as_expected) == words


class TestOneLine:
    def test_ratio_and_interval(self) -> None:
        document, _ = certified("calibration")
        assert one_line(document) == "ratio 1.0000 [1.0000, 1.0000]"

    def test_failing_gates(self) -> None:
        document, _ = certified("prune_50pct_stress")
        metric = document["primary_metric"]
        low, high = metric["display_ci"]
        numbers = f"ratio {metric['ratio_vs_baseline']:.4f} [{low:.4f}, {high:.4f}]"
        assert one_line(document) == f"{numbers}; not held: {gate_words('primary_metric_acceptable')}"
        assert 2.7 < metric["ratio_vs_baseline"] < 2.74

    def test_no_ratio(self) -> None:
        document, _ = broken("nan_injection")
        failed = gate_words("primary_metric_acceptable")
        assert one_line(document).startswith(f"ratio not defined (non finite loss); not held: {failed}, ")


class TestUnexpected:
    @pytest.mark.parametrize("request_", make_plan()[1].requests, ids=lambda request: request.id)
    def test_nothing_to_say_where_a_scenario_behaves(self, request_: CertificateRequest) -> None:
        assert unexpected(build_certificate(make_evidence(request_)), request_.scenario) is None

    def test_a_clean_edit_that_fails(self) -> None:
        document, request = certified("quant_4bit_clean", 0.3)
        text = unexpected(document, request.scenario)
        assert text is not None
        first, *rest = text.splitlines()
        assert max(map(len, rest)) <= 80
        name, measured, demanded = failed_gates(document)[0]
        assert name == gate_words("primary_metric_acceptable")
        assert measured.startswith("ratio 1.34")
        assert demanded.startswith("ratio and its upper end at most 1.1 ")
        assert first == "acme/Tiny-1M, scenario quant_4bit_clean, run 1: must pass every gate."
        assert rest == [
            f"  measured    {one_line(document).partition(';')[0]}; limit 1.1, 60000 tokens",
            f"  not held    {name}",
            *textwrap.wrap(measured, 80, initial_indent="    measured  ", subsequent_indent=" " * 14),
            *textwrap.wrap(demanded, 80, initial_indent="    demanded  ", subsequent_indent=" " * 14),
            "  seen by     metric",
            "  detectors   none fired",
        ]

    def test_a_destructive_edit_that_slips_through(self) -> None:
        document, request = certified("prune_50pct_stress", 0.01)
        text = unexpected(document, request.scenario)
        assert text is not None
        assert "must fail, and be seen by one of its detectors." in text
        assert "  gates       all hold\n" in text
        assert "  detectors   none fired of primary_metric_acceptable, " in text

    def test_an_error_that_goes_undetected(self) -> None:
        text = unexpected(*_document_and_scenario("extreme_quant", 0.01))
        assert text is not None
        assert "must be seen by one of its detectors." in text

    def test_an_informational_one_that_fails_is_explained_for_its_xfail(self) -> None:
        assert unexpected(*_document_and_scenario("quant_4bit_stress", 0.01)) is None
        text = unexpected(*_document_and_scenario("quant_4bit_stress", 0.3))
        assert text is not None
        assert "is informational: it gates nothing." in text
        assert "  detectors   primary_metric_acceptable" in text

    def test_structural_damage_is_listed(self) -> None:
        document, request = certified("nan_injection")
        text = unexpected(document, replace(request.scenario, strictness=Strictness.MUST_PASS))
        assert text is not None
        assert text.endswith("  invariants  fatal: 1 values are NaN or infinite (block.0.mlp.weight)")

    def test_a_ratio_that_is_not_defined(self) -> None:
        document, request = broken("quant_4bit_clean")
        text = unexpected(document, request.scenario)
        assert text is not None
        assert "  measured    ratio not defined (non finite loss); limit" in text

    def test_the_limit_is_that_of_the_recorded_policy(self) -> None:
        document, request = certified("quant_4bit_clean", 0.3)
        text = unexpected(
            replaced(document, ("resolved_policy", "primary_metric", "ratio_limit"), 1.05), request.scenario
        )
        assert text is not None
        assert "; limit 1.05, " in text


def _document_and_scenario(scenario: str, shift: float) -> tuple[JsonObject, Scenario]:
    document, request = certified(scenario, shift)
    return document, request.scenario
