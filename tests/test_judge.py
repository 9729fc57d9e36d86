"""The judge: every gate at its limit, from evidence alone, and nothing but a FormatError for evidence that is none."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_proofpack.certificate import build_certificate
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.invariants import Violation
from pytest_proofpack.jsonio import JsonObject
from pytest_proofpack.judge import GATES, derive, differences
from tests.certificates import make_evidence, make_plan
from tests.mutations import Path, at, replaced

WINDOWS = 20
FLAT = 0.0
HOSTILE: list[Any] = [None, -1, 0, 1e308, -1e308, 10**200, "1", [], {}, [1], [{}], True, 0.5, [None] * WINDOWS]


@cache
def _honest() -> JsonObject:
    request = next(r for r in make_plan()[1].requests if r.scenario.id == "calibration")
    return build_certificate(make_evidence(request))


def judged(
    final: float | Sequence[float] = FLAT,
    preview: float | Sequence[float] = FLAT,
    change: Callable[[JsonObject], object] | None = None,
) -> JsonObject:
    """Derive from an unedited model's evidence, with these loss differences on its windows."""
    document = copy.deepcopy(_honest())
    for side, shift in (("final", final), ("preview", preview)):
        windows = document["evaluation_windows"][side]
        shifts = shift if isinstance(shift, Sequence) else [shift] * WINDOWS
        windows["logloss"] = [a + b for a, b in zip(windows["baseline_logloss"], shifts, strict=True)]
    if change:
        change(document)
    return derive(document)


def thresholds(section: str, **values: float | str) -> Callable[[JsonObject], object]:
    return lambda document: document["resolved_policy"][section].update(values)


def test_an_unedited_model_passes_every_gate() -> None:
    derived = judged()
    assert derived["outcome"] == {"passed": True, "failed_gates": [], "warnings": []}
    assert derived["primary_metric"]["ratio_vs_baseline"] == 1.0
    assert derived["primary_metric"]["display_ci"] == [1.0, 1.0]
    assert {flag: derived["validation"][flag] for flag in GATES if flag in derived["validation"]} == {
        "primary_metric_acceptable": True,
        "primary_metric_tail_acceptable": True,
        "preview_final_drift_acceptable": True,
        "invariants_pass": True,
    }


class TestPrimaryMetric:
    @pytest.mark.parametrize(
        ("ratio", "acceptable", "hysteresis"),
        [(1.0999, True, False), (1.1001, True, True), (1.1019, True, True), (1.1021, False, False), (0.5, True, False)],
    )
    def test_the_limit_and_the_hysteresis_above_it(self, ratio: float, acceptable: bool, hysteresis: bool) -> None:
        derived = judged(math.log(ratio), math.log(ratio))
        assert derived["primary_metric"]["ratio_vs_baseline"] == pytest.approx(ratio)
        assert derived["validation"]["primary_metric_acceptable"] is acceptable
        assert derived["validation"]["hysteresis_applied"] is hysteresis
        assert ("hysteresis_applied" in derived["outcome"]["warnings"]) is hysteresis

    def test_the_upper_end_of_the_interval_counts(self) -> None:
        shifts = [0.02, 0.14] * (WINDOWS // 2)
        derived = judged(shifts, shifts)
        metric = derived["primary_metric"]
        assert metric["ratio_vs_baseline"] < 1.10
        assert metric["display_ci"][1] > 1.102
        assert derived["outcome"]["failed_gates"] == ["primary_metric_acceptable"]

    def test_the_numbers_are_those_of_their_definitions(self) -> None:
        derived = judged(math.log(1.05), math.log(1.02))
        metric, baseline = derived["primary_metric"], derived["baseline_ref"]["primary_metric"]
        assert metric["final"] == pytest.approx(1.05 * baseline["final"])
        assert metric["preview"] == pytest.approx(1.02 * baseline["preview"])
        assert metric["relative_drift"] == pytest.approx(1.05 / 1.02)
        assert metric["drift_band"]["max"] == pytest.approx(1.05 * baseline["final"] / baseline["preview"])
        assert [math.exp(bound) for bound in metric["ci"]] == pytest.approx(metric["display_ci"])
        assert metric["tokens"] == 60_000

    def test_too_few_tokens_are_not_enough_evidence(self) -> None:
        derived = judged(change=thresholds("primary_metric", min_tokens=60_001))
        assert derived["primary_metric"]["enough_evidence"] is False
        assert derived["outcome"]["failed_gates"] == ["primary_metric_acceptable"]
        assert judged(change=thresholds("primary_metric", min_tokens=60_000))["outcome"]["passed"]

    def test_hysteresis_does_not_matter_where_evidence_lacks(self) -> None:
        derived = judged(math.log(1.101), change=thresholds("primary_metric", min_tokens=10**6))
        assert derived["validation"]["hysteresis_applied"] is False

    def test_a_large_improvement_is_suspicious_but_passes(self) -> None:
        derived = judged(math.log(0.89), math.log(0.89))
        assert derived["outcome"] == {"passed": True, "failed_gates": [], "warnings": ["suspicious_improvement"]}

    @pytest.mark.parametrize("side", ["preview", "final"])
    def test_a_loss_that_was_not_finite_fails(self, side: str) -> None:
        derived = judged(change=lambda document: document["evaluation_windows"][side]["logloss"].__setitem__(3, None))
        assert derived["primary_metric"]["degraded_reason"] == "non_finite_loss"
        assert "primary_metric_acceptable" in derived["outcome"]["failed_gates"]
        assert derived["primary_metric_tail"]["evaluated"] is (side == "preview")

    @pytest.mark.parametrize("shift", [299.0, 1e3, 1e38])
    def test_a_perplexity_out_of_range_fails(self, shift: float) -> None:
        derived = judged(shift)
        assert derived["primary_metric"]["degraded_reason"] == "perplexity_overflow"
        assert derived["outcome"]["passed"] is False

    def test_the_largest_ratio_that_can_be_told_is_told(self) -> None:
        assert judged(290.0, 290.0)["primary_metric"]["ratio_vs_baseline"] == pytest.approx(math.exp(290))


class TestDriftAndTail:
    @pytest.mark.parametrize(("drift", "passes"), [(1.049, True), (1.051, False), (0.951, True), (0.949, False)])
    def test_drift_is_relative_to_the_baselines(self, drift: float, passes: bool) -> None:
        assert judged(0.0, -math.log(drift))["validation"]["preview_final_drift_acceptable"] is passes

    @pytest.mark.parametrize(("mode", "failed"), [("warn", []), ("fail", ["primary_metric_tail_acceptable"])])
    def test_a_heavy_tail_warns_or_fails(self, mode: str, failed: list[str]) -> None:
        shifts = [0.0] * 18 + [0.5, 0.5]
        derived = judged(shifts, 0.05, change=thresholds("primary_metric_tail", mode=mode))
        assert derived["primary_metric_tail"]["quantiles"]["q95"] == pytest.approx(0.5)
        assert set(failed) <= set(derived["outcome"]["failed_gates"])
        assert "primary_metric_tail" in derived["outcome"]["warnings"]
        assert derived["validation"]["primary_metric_tail_acceptable"] is (mode == "warn")

    def test_at_the_limit_there_is_no_warning(self) -> None:
        assert judged(0.19, 0.19)["primary_metric_tail"]["warned"] is False
        assert judged(0.21, 0.21)["primary_metric_tail"]["warned"] is True


class TestInvariants:
    def add(self, *kinds: tuple[str, str], **subject: object) -> JsonObject:
        def change(document: JsonObject) -> None:
            block = document["invariants"]
            block["violations"] = [Violation(kind, severity, 1, ("x",), "m").to_json() for kind, severity in kinds]
            block["subject"].update(subject)

        return judged(change=change)

    def test_warnings_warn_and_fatal_ones_fail(self) -> None:
        warned = self.add(("dtype", "warning"), sha256="0" * 64)
        assert (warned["invariants"]["status"], warned["outcome"]["passed"]) == ("warn", True)
        assert warned["outcome"]["warnings"] == ["invariants"]
        failed = self.add(("dtype", "warning"), ("shape", "fatal"), sha256="0" * 64)
        assert failed["invariants"] == {
            "evaluated": True, "status": "fail", "fatal_violations": 1, "warning_violations": 1,
        }  # fmt: skip
        assert failed["outcome"]["failed_gates"] == ["invariants_pass"]

    def test_an_unknown_kind_is_fatal(self) -> None:
        assert self.add(("loading", "fatal"), ("unheard_of", "fatal"))["invariants"]["fatal_violations"] == 2

    @pytest.mark.parametrize(
        ("kinds", "subject", "what"),
        [
            ([("shape", "warning")], {"sha256": "0" * 64}, "another severity"),
            ([("unheard_of", "warning")], {}, "another severity"),
            ([], {"sha256": "0" * 64}, "the digests of the structures"),
            ([("shape", "fatal")], {}, "the digests of the structures"),
            ([], {"non_finite": 1}, "the count of non-finite values"),
            ([("non_finite", "fatal")], {}, "the count of non-finite values"),
            ([], {"vocabulary": {"embedding": 72}}, "the vocabulary sizes"),
            ([("vocabulary", "fatal")], {}, "the vocabulary sizes"),
            ([], {"tied": []}, "the tied tensors"),
            ([], {"config_tied": False}, "the tied tensors"),
            ([], {"tensors": 3}, "cannot differ in tensors"),
            ([], {"norm_modules": 0}, "cannot differ in norm_modules"),
        ],
    )
    def test_violations_that_contradict_the_facts(
        self, kinds: list[tuple[str, str]], subject: dict[str, object], what: str
    ) -> None:
        with pytest.raises(FormatError, match=what):
            self.add(*kinds, **subject)


class TestOverhead:
    @pytest.mark.parametrize(("guarded", "passes"), [(20.0, True), (20.0 * (1 + 5e-10), True), (20.0001, False)])
    def test_hooks_must_not_change_the_model(self, guarded: float, passes: bool) -> None:
        facts = {"evaluated": True, "guarded_perplexity": guarded, "bare_perplexity": 20.0}
        derived = judged(change=lambda document: document["guard_overhead"].update(facts))
        assert derived["validation"]["guard_overhead_acceptable"] is passes
        assert derived["outcome"]["passed"] is passes

    @pytest.mark.parametrize(("guarded", "bare"), [(1, 0), (0, 0), (-1, -1), (1e200, 1e-200), ("1", "1"), (None, 1)])
    def test_numbers_that_are_no_perplexities(self, guarded: object, bare: object) -> None:
        facts = {"evaluated": True, "guarded_perplexity": guarded, "bare_perplexity": bare}
        with pytest.raises(FormatError, match=r"perplexities|malformed"):
            judged(change=lambda document: document["guard_overhead"].update(facts))


class TestMalformed:
    @pytest.mark.parametrize(
        "key",
        [
            "scenario",
            "meta",
            "evaluation_windows",
            "dataset",
            "invariants",
            "guard_overhead",
            "resolved_policy",
            "policy_provenance",
            "provenance",
        ],
    )
    @pytest.mark.parametrize("value", [None, 5, "text", [], {}, [[]]])
    def test_a_block_that_is_none(self, key: str, value: object) -> None:
        with pytest.raises(FormatError, match="incomplete or malformed"):
            derive({**_honest(), key: value})

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_nothing_but_a_format_error(self, data: st.DataObject) -> None:
        document = _honest()
        section = data.draw(st.sampled_from(["dataset", "invariants", "resolved_policy", "evaluation_windows", "meta"]))
        path: Path = (section,)
        while isinstance(node := at(document, path), dict) and node and data.draw(st.integers(0, 3)):
            path = (*path, data.draw(st.sampled_from(sorted(node))))
        value: Any = data.draw(st.sampled_from(HOSTILE))
        with contextlib.suppress(FormatError):
            derive(replaced(document, path, value))


class TestDifferences:
    def test_more_may_be_recorded_than_was_derived(self) -> None:
        assert differences({"a": 1, "evidence": 2}, {"a": 1}) == []

    @pytest.mark.parametrize(
        ("recorded", "derived"),
        [
            (1, 2), (1.0, 1.00001), (True, 1), (0, False), ("1", 1), (None, 0), ([1], [1, 2]), ([1, 2], [1]),
            ("ab", ["a", "b"]), ({}, []), ([], {}), (None, {"k": 1}), (1e308, -1e308), (math.nan, 1.0),
        ],
    )  # fmt: skip
    def test_a_difference_is_named_by_its_path(self, recorded: object, derived: object) -> None:
        assert differences({"a": {"b": recorded}}, {"a": {"b": derived}})[0].startswith("a.b: ")

    @pytest.mark.parametrize(("recorded", "derived"), [(1, 1.0), (1.0, 1.0 + 1e-8), (0.0, 1e-10), ([1, "a"], [1, "a"])])
    def test_the_last_digits_may_differ(self, recorded: object, derived: object) -> None:
        assert differences({"a": recorded}, {"a": derived}) == []

    def test_what_is_missing_and_where_in_a_list(self) -> None:
        assert differences({}, {"a": 1}) == ["a: missing, recomputed 1"]
        assert differences({"a": {}}, {"a": {"b": 1}}) == ["a.b: missing, recomputed 1"]
        assert differences({"a": [1, 2]}, {"a": [1, 3]}) == ["a[1]: recorded 2, recomputed 3"]


def test_judging_changes_nothing_in_the_evidence() -> None:
    before = copy.deepcopy(_honest())
    derive(_honest())
    assert _honest() == before
