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

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.derive import derive, differences
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import SIGNALS
from pytest_proofpack.guards.invariants import Violation
from pytest_proofpack.guards.registry import GUARDS
from tests.support.certificates import make_evidence, make_plan
from tests.support.mutations import Path, at, replaced

GATES = [gate.flag for criterion in criteria() for gate in criterion.gates]
WINDOWS = 80
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
    document["guard_overhead"]["bare_logloss"] = document["evaluation_windows"]["preview"]["logloss"][:2]
    if change:
        change(document)
    return derive(document)


def thresholds(section: str, **values: float | str) -> Callable[[JsonObject], object]:
    return lambda document: document["resolved_policy"][section].update(values)


def test_an_unedited_model_passes_every_gate() -> None:
    derived = judged()
    assert derived["outcome"] == {"passed": True, "failed_gates": [], "warnings": [], "signals": []}
    assert derived["primary_metric"]["ratio_vs_baseline"] == 1.0
    assert derived["primary_metric"]["display_ci"] == [1.0, 1.0]
    assert all(derived["validation"][gate] is True for gate in GATES)


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
        shifts = [0.0, 0.17] * (WINDOWS // 2)
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
        assert derived["outcome"]["passed"] is True
        assert derived["outcome"]["warnings"] == ["suspicious_improvement"]

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
        shifts = [0.0] * (WINDOWS - 8) + [0.5] * 8
        derived = judged(shifts, 0.05, change=thresholds("primary_metric_tail", mode=mode))
        assert derived["primary_metric_tail"]["quantiles"]["q95"] == pytest.approx(0.5)
        assert set(failed) <= set(derived["outcome"]["failed_gates"])
        assert ("primary_metric_tail" in derived["outcome"]["warnings"]) is (mode == "warn")
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
    @staticmethod
    def measured(*bare: object) -> JsonObject:
        return judged(change=lambda document: document["guard_overhead"].update(bare_logloss=list(bare)))

    @pytest.mark.parametrize(("change", "passes"), [(0.0, True), (5e-10, True), (1e-6, False), (-1e-6, False)])
    def test_observers_must_not_change_what_they_observe(self, change: float, passes: bool) -> None:
        first = _honest()["evaluation_windows"]["preview"]["logloss"][0]
        derived = self.measured(first + change)
        assert derived["guard_overhead"]["overhead_ratio"] == pytest.approx(math.exp(-change), rel=1e-12)
        assert derived["validation"]["guard_overhead_acceptable"] is passes
        assert derived["outcome"]["passed"] is passes

    def test_a_loss_that_is_finite_on_one_side_only_fails(self) -> None:
        assert self.measured(None)["validation"]["guard_overhead_acceptable"] is False

    @pytest.mark.parametrize("bare", [[], [3.0] * (WINDOWS + 1), ["3.0"], [True], [1e40], [[]]])
    def test_what_are_no_losses_of_some_windows(self, bare: list[object]) -> None:
        with pytest.raises(FormatError, match=r"guard_overhead.bare_logloss: expected"):
            self.measured(*bare)


def _spectrum_explodes(document: JsonObject) -> None:
    ratios = {"row_min": 1.0, "row_max": 22.0, "column_min": 1.0, "column_max": 21.0}
    for column, value in {"state": "measured", "sigma": 80.0, "frobenius": 240.0, **ratios}.items():
        document["spectral"]["matrices"][column][1] = value
    name = document["spectral"]["matrices"]["name"][1]
    row = {"name": name, "family": "ffn", "cosine": 1.0, "retained": 0.05, "rows_lost": 0.0, "columns_lost": 0.0}
    for column, value in {**row, "like": None}.items():
        document["direction"]["matrices"][column].append(value)


def _structure_changes(document: JsonObject) -> None:
    document["invariants"]["violations"] = [Violation("shape", "fatal", 1, ("x",), "m").to_json()]
    document["invariants"]["subject"]["sha256"] = "0" * 64


def _another_router(document: JsonObject) -> None:
    router = {"experts": 1, "top_k": 1, "shape": [1, 8], "usage": [1]}
    document["moe"]["routers"] = {"r": {"base": router, "cur": {**router, "top_k": 2}}}


class TestSignals:
    """Ways of seeing an edit: each gate speaks for one of them, and is enough for it."""

    @pytest.mark.parametrize(
        ("change", "gate", "signal"),
        [
            (_spectrum_explodes, "spectral_stable", "spectral"),
            (lambda d: d["rmt"]["branches"]["block.0.mlp"].update(cur=99.0), "rmt_stable", "rmt"),
            (lambda d: d["variance"]["branches"]["block.0.mlp"].update(cur=99.0), "variance_stable", "rmt"),
            (_structure_changes, "invariants_pass", "invariants"),
            (_another_router, "moe_identity_ok", "invariants"),
            (
                lambda d: d["distribution"].update(
                    kl_q99=0.5, kl_max=0.9, final={**d["distribution"]["final"], "kl_mean": [0.21] * WINDOWS}
                ),
                "distribution_acceptable",
                "distribution",
            ),
        ],
    )
    def test_one_gate_is_enough_for_its_signal(
        self, change: Callable[[JsonObject], object], gate: str, signal: str
    ) -> None:
        def moved(document: JsonObject) -> None:  # the function too, or it would explain what guards find
            document["distribution"].update(kl_q99=0.05, kl_max=0.5)
            document["distribution"]["final"]["kl_mean"] = [0.01] * WINDOWS
            change(document)

        outcome = judged(change=moved)["outcome"]
        assert (outcome["passed"], outcome["failed_gates"], outcome["signals"]) == (False, [gate], [signal])

    def test_the_metric_speaks_through_ratio_and_drift(self) -> None:
        assert judged(0.2, 0.2)["outcome"]["signals"] == ["metric"]
        assert judged(0.0, 0.08)["outcome"]["signals"] == ["metric"]

    def test_the_cost_of_looking_and_the_tail_are_no_signal(self) -> None:
        late = judged(change=lambda document: document["guard_overhead"].update(bare_logloss=[9.0]))
        assert late["outcome"]["failed_gates"] == ["guard_overhead_acceptable"]
        assert late["outcome"]["signals"] == []
        heavy = judged([0.0] * (WINDOWS - 8) + [0.25] * 8, 0.025, change=thresholds("primary_metric_tail", mode="fail"))
        assert heavy["outcome"]["failed_gates"] == ["primary_metric_tail_acceptable"]
        assert heavy["outcome"]["signals"] == []

    def test_every_gate_but_cost_and_tail_speaks_for_a_signal(self) -> None:
        speaking = {judge.name: judge.signal for judge in criteria() if judge.signal is not None}
        assert set(speaking.values()) == set(SIGNALS)
        mute = {"primary_metric_tail", "guard_overhead", "baseline_quality", "generation", "readings"}
        assert {judge.name for judge in criteria()} - set(speaking) == mute
        assert len(GATES) == len(set(GATES))


class TestMalformed:
    @pytest.mark.parametrize(
        "key",
        [
            "scenario",
            "meta",
            "evaluation_windows",
            "dataset",
            *(name for name, guard in GUARDS.builtin.items() if guard.evidence),
            "resolved_policy",
            "policy_provenance",
            "provenance",
        ],
    )
    @pytest.mark.parametrize("value", [None, 5, "text", [], {}, [[]]])
    def test_a_block_that_is_none(self, key: str, value: object) -> None:
        with pytest.raises(FormatError, match=rf"incomplete or malformed|^{key}.*(expected|must be)"):
            derive({**_honest(), key: value})

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_nothing_but_a_format_error(self, data: st.DataObject) -> None:
        document = _honest()
        sections = ["dataset", "resolved_policy", "evaluation_windows", "meta", *GUARDS.builtin]
        section = data.draw(st.sampled_from(sections))
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
