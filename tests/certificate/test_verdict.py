"""The verdict: PASS for what was expected, FAIL for each way in which it is not."""

from __future__ import annotations

import copy
import random
from functools import cache
from typing import Any

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.verdict import assess, certificate_key, compute_verdict
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.plan.expected import expected_certificates
from pytest_proofpack.plan.records import Category, Scenario, Strictness
from pytest_proofpack.plan.suites import plan_certificates
from tests.support.certificates import MODEL, make_evidence, make_plan

RUNS = {"calibration": 1, "clean": 2, "stress": 1, "error": 1}
EXPECTED = 1 + 4 * 2 + 4 + 9
DEGRADED: JsonObject = {"kind": "primary_metric", "field": "degraded", "expected": True}


@cache
def _everything() -> tuple[JsonObject, tuple[JsonObject, ...]]:
    suite, plan = make_plan(runs=RUNS)
    return plan.document(suite), tuple(build_certificate(make_evidence(request)) for request in plan.requests)


def everything() -> tuple[JsonObject, dict[tuple[str, int], JsonObject]]:
    """Return the scenarios with their plan, and a certificate for each of them by scenario and run."""
    document, certificates = copy.deepcopy(_everything())
    return document, {certificate_key(certificate)[1:]: certificate for certificate in certificates}


def remake(scenario: str, shift: float) -> JsonObject:
    """Return the certificate of a scenario whose loss changes by ``shift``."""
    request = next(request for request in make_plan(runs=RUNS)[1].requests if request.scenario.id == scenario)
    return build_certificate(make_evidence(request, shift=shift))


def requirements(verdict: JsonObject) -> list[str]:
    return [failed["requirement"] for failed in verdict["failed_requirements"]]


class TestPass:
    def test_all_that_is_expected_is_there_and_behaves(self) -> None:
        document, certificates = everything()
        verdict = compute_verdict(document, certificates.values())
        assert (verdict["verdict"], verdict["failed_requirements"]) == ("PASS", [])
        assert (verdict["missing"], verdict["unexpected"], verdict["skipped"]) == ([], [], [])
        assert verdict["counts"] == {
            "models_total": 1, "expected_total": EXPECTED, "records_total": EXPECTED,
            "must_pass_total": 9, "must_pass_as_expected": 9, "must_fail_total": 2, "must_fail_as_expected": 2,
            "must_detect_total": 9, "must_detect_as_expected": 9,
            "informational_total": 2, "informational_as_expected": 2,
        }  # fmt: skip
        assert verdict["manifest"]["sha256"] == sha256_of(document)

    def test_rows_say_what_the_certificates_say(self) -> None:
        document, certificates = everything()
        rows = {
            (row["scenario"], row["run"]): row
            for row in compute_verdict(document, certificates.values())["certificates"]
        }
        assert rows.keys() == certificates.keys()
        for key, row in rows.items():
            assert row["certificate_digest"] == certificates[key]["certificate_digest"]
            assert row["ratio"] == certificates[key]["primary_metric"]["ratio_vs_baseline"]
            assert row["passed"] == certificates[key]["outcome"]["passed"]
        assert rows["prune_50pct_stress", 1]["detectors_fired"] == ["primary_metric_acceptable"]
        assert rows["nan_injection", 1]["detectors_fired"] == ["invariants"]

    def test_the_order_of_certificates_does_not_matter(self) -> None:
        document, certificates = everything()
        shuffled = list(certificates.values())
        random.Random(1).shuffle(shuffled)
        assert compute_verdict(document, shuffled) == compute_verdict(document, certificates.values())

    def test_scenarios_are_taken_for_every_model_and_run(self) -> None:
        suite, plan = make_plan(["a", "b"], {"calibration": 2, "clean": 3, "stress": 0, "error": 1})
        expected = expected_certificates(plan.document(suite))
        assert len(expected) == 2 * (2 + 4 * 3 + 0 + 9)
        assert set(expected) == {(r.model.id, r.scenario.id, r.run) for r in plan.requests}

    def test_what_the_tuned_file_skips_is_not_expected_but_shown(self) -> None:
        suite, _ = make_plan(runs=RUNS)
        suite.tuned["models"][MODEL] = {"quant_rtn": {"status": "skipped", "reason": "too small"}}
        try:
            document = plan_certificates(suite).document(suite)
        finally:
            del suite.tuned["models"][MODEL]
        _, certificates = everything()
        kept = [certificate for (scenario, _), certificate in certificates.items() if scenario != "quant_4bit_clean"]
        verdict = compute_verdict(document, kept)
        assert verdict["verdict"] == "PASS"
        assert verdict["skipped"] == [{"model": MODEL, "scenario": "quant_4bit_clean", "reason": "too small"}]
        assert compute_verdict(document, certificates.values())["verdict"] == "FAIL"


class TestFail:
    def verdict(self, change: Any) -> JsonObject:
        document, certificates = everything()
        change(certificates)
        verdict = compute_verdict(document, certificates.values())
        assert verdict["verdict"] == ("FAIL" if verdict["failed_requirements"] else "PASS")
        return verdict

    @pytest.mark.parametrize("key", list(everything()[1]), ids=str)
    def test_any_missing_certificate(self, key: tuple[str, int]) -> None:
        verdict = self.verdict(lambda certificates: certificates.pop(key))
        assert requirements(verdict) == ["scenario_coverage"]
        assert verdict["missing"] == [{"model": MODEL, "scenario": key[0], "run": key[1]}]

    def test_no_certificate_at_all(self) -> None:
        verdict = self.verdict(lambda certificates: certificates.clear())
        assert requirements(verdict) == ["scenario_coverage"]
        assert len(verdict["missing"]) == EXPECTED

    def test_a_run_that_expects_nothing(self) -> None:
        suite, plan = make_plan(runs=dict.fromkeys(RUNS, 0))
        verdict = compute_verdict(plan.document(suite), [])
        assert (verdict["verdict"], requirements(verdict)) == ("FAIL", ["evidence_present"])

    def test_a_certificate_that_nobody_expects(self) -> None:
        def change(certificates: dict[Any, JsonObject]) -> None:
            stray = copy.deepcopy(certificates["quant_4bit_clean", 1])
            stray["scenario"]["run"] = 3
            certificates["stray", 1] = stray

        verdict = self.verdict(change)
        assert requirements(verdict) == ["no_unexpected_certificates"]
        assert verdict["unexpected"] == [{"model": MODEL, "scenario": "quant_4bit_clean", "run": 3}]

    def test_two_certificates_of_the_same_run(self) -> None:
        def change(certificates: dict[Any, JsonObject]) -> None:
            certificates["again", 1] = remake("quant_4bit_clean", 0.02)

        verdict = self.verdict(change)
        assert requirements(verdict) == ["no_unexpected_certificates"]
        assert verdict["unexpected"] == [{"model": MODEL, "scenario": "quant_4bit_clean", "run": 1}]

    @pytest.mark.parametrize("scenario", ["calibration", "quant_4bit_clean"])
    def test_what_must_pass_fails(self, scenario: str) -> None:
        verdict = self.verdict(lambda certificates: certificates.update({(scenario, 1): remake(scenario, 0.3)}))
        assert requirements(verdict) == ["clean_all_pass"]
        assert verdict["failed_requirements"][0]["scenario"] == scenario

    def test_a_destructive_edit_slips_through(self) -> None:
        def change(certificates: dict[Any, JsonObject]) -> None:
            certificates["prune_50pct_stress", 1] = remake("prune_50pct_stress", 0.01)

        verdict = self.verdict(change)
        assert requirements(verdict) == ["stress_required_fail"]
        assert verdict["failed_requirements"][0]["run"] == 1

    def test_a_destructive_edit_fails_for_another_reason_than_its_detectors(self) -> None:
        def change(certificates: dict[Any, JsonObject]) -> None:
            certificate = remake("prune_50pct_stress", 0.01)
            certificate["outcome"] = certificate["outcome"] | {"passed": False, "failed_gates": ["invariants_pass"]}
            certificates["prune_50pct_stress", 1] = certificate

        assert requirements(self.verdict(change)) == ["stress_required_fail"]

    @pytest.mark.parametrize("scenario", ["extreme_quant", "rank_collapse"])
    def test_an_injected_error_goes_undetected(self, scenario: str) -> None:
        verdict = self.verdict(lambda certificates: certificates.update({(scenario, 1): remake(scenario, 0.01)}))
        assert requirements(verdict) == ["error_injection_detected"]

    @pytest.mark.parametrize("shift", [0.0, 0.01, 3.0])
    @pytest.mark.parametrize("scenario", ["quant_4bit_stress", "fp8_e5m2_stress"])
    def test_what_is_informational_never_gates(self, scenario: str, shift: float) -> None:
        verdict = self.verdict(lambda certificates: certificates.update({(scenario, 1): remake(scenario, shift)}))
        assert verdict["verdict"] == "PASS"

    def test_but_it_must_be_there(self) -> None:
        assert requirements(self.verdict(lambda certificates: certificates.pop(("quant_4bit_stress", 1))))


class TestDetectors:
    @pytest.mark.parametrize(
        ("detector", "certificate", "fires"),
        [
            ({"kind": "validation_flag", "flag": "f", "expected": False}, {"validation": {"f": False}}, True),
            ({"kind": "validation_flag", "flag": "f", "expected": False}, {"validation": {"f": True}}, False),
            ({"kind": "validation_flag", "flag": "f", "expected": False}, {"validation": {}}, False),
            ({"kind": "validation_flag", "flag": "f", "expected": True}, {"validation": {"f": 1}}, False),
            (DEGRADED, {"primary_metric": {"degraded": True}}, True),
            (DEGRADED, {"primary_metric": {"degraded": False}}, False),
            ({"kind": "primary_metric", "field": "invalid", "expected": False}, {"primary_metric": {}}, False),
            ({"kind": "invariants_status", "allowed": ["fail"]}, {"invariants": {"status": "fail"}}, True),
            ({"kind": "invariants_status", "allowed": ["fail"]}, {"invariants": {"status": "warn"}}, False),
            ({"kind": "unheard_of"}, {}, False),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("passed", [True, False])
    def test_each_kind(self, detector: JsonObject, certificate: JsonObject, fires: bool, passed: bool) -> None:
        document = {**certificate, "outcome": {"passed": passed}}

        def as_expected(strictness: Strictness) -> bool:
            return assess(document, Scenario("x", Category.STRESS, strictness, detectors=(detector,))).as_expected

        assert as_expected(Strictness.MUST_DETECT) is fires
        assert as_expected(Strictness.MUST_FAIL) is (fires and not passed)
        assert as_expected(Strictness.MUST_PASS) is passed
        assert as_expected(Strictness.INFORMATIONAL) is True

    def test_one_of_several_is_enough_and_all_that_fire_are_named(self) -> None:
        flags = ("a", "b", "c")
        detectors = tuple({"kind": "validation_flag", "flag": flag, "expected": False} for flag in flags)
        scenario = Scenario("x", Category.ERROR, Strictness.MUST_DETECT, error_type="x", detectors=detectors)
        certificate = {"validation": {"a": True, "b": False, "c": False}, "outcome": {"passed": True}}
        assert assess(certificate, scenario).detectors == ("b", "c")
        assert not assess(certificate, Scenario("x", Category.ERROR, Strictness.MUST_DETECT)).as_expected
