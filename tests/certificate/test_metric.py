"""The primary metric from a certificate's windows: definitions, limits, and windows that are none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_proofpack.certificate.bootstrap import perplexity
from pytest_proofpack.certificate.formats import FORMAT_1
from pytest_proofpack.certificate.metric import (
    MAX_PERPLEXITY,
    derive_metric,
    derive_tail,
    read_windows,
)
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import EvaluatedWindows

POLICY = resolve_policy("balanced").thresholds
POLICY["primary_metric"]["min_final_windows"] = 30
STATS = {"bootstrap": {"replicates": 1200, "alpha": 0.05, "seed": 43}}
COUNTS = [1000, 2000, 3000] * 10
BASE = [2.0, 3.0, 4.0] * 10


def windows(shift: float = 0.0, base: list[float] | None = None) -> EvaluatedWindows:
    losses = base or BASE
    return EvaluatedWindows([str(i) for i in range(len(BASE))], COUNTS, [loss + shift for loss in losses], losses)


def many(count: int, tokens: int) -> EvaluatedWindows:
    losses = [3.0 + 0.001 * index for index in range(count)]
    return EvaluatedWindows([str(index) for index in range(count)], [tokens] * count, losses, losses)


def evidence(**columns: Any) -> JsonObject:
    block = {"window_ids": ["a", "b"], "token_counts": [9, 5], "logloss": [2.0, None], "baseline_logloss": [2.0, 0]}
    return {"evaluation_windows": {"final": {**block, **columns}}, "dataset": {"seq_len": 10}}


class TestReading:
    def test_null_is_a_loss_that_was_not_finite(self) -> None:
        read = read_windows(evidence(), "final")
        assert (read.ids, read.counts, read.baseline) == (["a", "b"], [9, 5], [2.0, 0.0])
        assert read.subject[0] == 2.0
        assert math.isnan(read.subject[1])

    @pytest.mark.parametrize(
        ("column", "values"),
        [
            ("window_ids", ["a"]), ("window_ids", "ab"), ("window_ids", ["a", 1]), ("token_counts", [9, 10]),
            ("token_counts", [9, 0]), ("token_counts", [9, 5.0]), ("token_counts", [9, True]), ("logloss", []),
            ("logloss", [2.0, "2"]), ("logloss", [2.0, False]), ("logloss", [2.0, -0.001]), ("logloss", [2.0, 1e40]),
            ("baseline_logloss", [2.0, None]), ("baseline_logloss", [301.0, 301.0]), ("baseline_logloss", None),
        ],
    )  # fmt: skip
    def test_a_column_that_is_none_is_named(self, column: str, values: object) -> None:
        with pytest.raises(FormatError, match=r"evaluation_windows\.final"):
            read_windows(evidence(**{column: values}), "final")


class TestMetric:
    def test_perplexities_weigh_tokens(self) -> None:
        weighted = math.exp((1000 * 2.0 + 2000 * 3.0 + 3000 * 4.0) / 6000)
        assert perplexity(BASE, COUNTS) == pytest.approx(weighted)
        metric = derive_metric(windows(0.1), windows(0.1), STATS, POLICY)
        assert metric.baseline["final"] == pytest.approx(weighted)
        assert metric.block["final"] == pytest.approx(weighted * math.exp(0.1))

    def test_ratio_and_drift(self) -> None:
        metric = derive_metric(windows(0.02), windows(0.05), STATS, POLICY)
        block = {**metric.block, **metric.verdicts}
        assert block["ratio_vs_baseline"] == pytest.approx(math.exp(0.05))
        assert block["relative_drift"] == pytest.approx(math.exp(0.03))
        assert (block["tokens"], block["acceptable"], block["drift_acceptable"], block["hysteresis_applied"]) == (
            120_000,
            True,
            True,
            False,
        )

    @pytest.mark.parametrize(
        ("preview", "final", "enough"),
        [(200, 200, True), (336, 64, False), (203, 197, True), (204, 196, False), (398, 2, False), (2, 398, True)],
    )
    def test_the_ratios_own_windows_hold_half_of_the_tokens(self, preview: int, final: int, enough: bool) -> None:
        """398 preview windows say nothing of a ratio that two final ones give."""
        policy = resolve_policy("balanced").thresholds
        metric = derive_metric(many(preview, 127), many(final, 127), STATS, policy)
        assert metric.block["tokens"] == 400 * 127
        assert (metric.block["final_tokens"], metric.block["final_windows"]) == (final * 127, final)
        assert (metric.block["enough_evidence"], metric.verdicts["acceptable"]) == (enough, enough)

    @pytest.mark.parametrize(("final", "enough"), [(64, True), (63, False)])
    def test_they_are_never_few(self, final: int, enough: bool) -> None:
        """However many tokens they hold: windows are what is resampled."""
        policy = resolve_policy("balanced").thresholds
        metric = derive_metric(many(64, 511), many(final, 511), STATS, policy)
        assert metric.block["enough_evidence"] is enough

    def test_a_policy_of_format_1_demands_nothing_of_them(self) -> None:
        policy = FORMAT_1.demands(resolve_policy("balanced").thresholds)
        assert derive_metric(many(398, 127), many(2, 127), STATS, policy).verdicts["acceptable"]

    @pytest.mark.parametrize(("resamples", "enough"), [(1200, True), (1199, False)])
    def test_fewer_resamples_than_the_policy_asks_for_are_not_enough(self, resamples: int, enough: bool) -> None:
        stats = {"bootstrap": {**STATS["bootstrap"], "replicates": resamples}}
        metric = derive_metric(windows(), windows(), stats, POLICY)
        assert (metric.block["enough_evidence"], metric.verdicts["acceptable"]) == (enough, enough)

    @pytest.mark.parametrize(("loss", "reason"), [(math.nan, "non_finite_loss"), (400.0, "perplexity_overflow")])
    def test_without_a_perplexity_there_is_no_ratio(self, loss: float, reason: str) -> None:
        for final, preview in ((windows(loss), windows()), (windows(), windows(loss))):
            metric = derive_metric(preview, final, STATS, POLICY)
            assert metric.block["degraded_reason"] == reason
            assert not any(metric.verdicts.values())
            assert "ratio_vs_baseline" not in metric.block

    def test_quotients_of_quotients_of_the_largest_perplexities_are_finite(self) -> None:
        assert math.isfinite(MAX_PERPLEXITY**2)

    def test_what_a_verifier_cannot_hold_is_refused(self) -> None:
        stats = {"bootstrap": {**STATS["bootstrap"], "replicates": 10**7}}
        with pytest.raises(FormatError, match="10000000 resamples of 30 windows are more"):
            derive_metric(windows(), windows(), stats, POLICY)


class TestTail:
    @pytest.mark.parametrize(("shift", "mode", "outcome"), [
        (0.19, "fail", (False, True)), (0.21, "warn", (True, True)), (0.21, "fail", (True, False)),
        (math.nan, "warn", (True, False)),
    ])  # fmt: skip
    def test_warned_and_passed(self, shift: float, mode: str, outcome: tuple[bool, bool]) -> None:
        tail = derive_tail(windows(shift), {**POLICY["primary_metric_tail"], "mode": mode})
        assert (tail["warned"], tail["passed"]) == outcome
        assert tail["evaluated"] is math.isfinite(shift)
