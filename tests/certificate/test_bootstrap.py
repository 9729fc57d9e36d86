"""The paired metric: identities of the ratio, and an interval that covers the truth as often as it says."""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from pytest_proofpack.certificate.bootstrap import bca_interval, is_finite, paired_metric, perplexity, tail_quantiles
from pytest_proofpack.errors import FormatError

Array = npt.NDArray[np.float64]
WINDOWS = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20), st.integers(1, 4096)), min_size=1, max_size=30)


def weighted_mean(values: Array, weights: Array, axis: int = -1) -> Array:
    return np.asarray(np.average(values, weights=weights, axis=axis))


class TestPerplexity:
    def test_is_the_exponential_of_the_mean_per_token(self) -> None:
        # 1 token at ln 2 and 3 tokens at ln 4: the geometric mean of 2, 4, 4, 4.
        assert perplexity([math.log(2), math.log(4)], [1, 3]) == pytest.approx((2 * 4**3) ** 0.25)

    def test_beyond_the_range_of_numbers(self) -> None:
        assert perplexity([1e6], [10]) == math.inf
        assert math.isnan(perplexity([math.nan, 1.0], [1, 1]))

    @pytest.mark.parametrize(("losses", "counts"), [([], []), ([1.0], [1, 1]), ([1.0], [0]), ([1.0], [-1])])
    def test_lists_that_are_no_windows(self, losses: list[float], counts: list[int]) -> None:
        with pytest.raises(FormatError, match=r"one length|positive token count"):
            perplexity(losses, counts)

    def test_finite(self) -> None:
        assert is_finite([0.0, 1e300])
        assert not is_finite([0.0, math.inf])
        assert not is_finite([math.nan])


class TestRatio:
    @settings(max_examples=50, deadline=None)
    @given(WINDOWS)
    def test_is_the_quotient_of_the_perplexities_and_turns_round_with_them(
        self, windows: list[tuple[float, float, int]]
    ) -> None:
        subject, baseline, counts = map(list, zip(*windows, strict=True))
        forward = paired_metric(subject, baseline, counts, replicates=20, alpha=0.05, seed=1)
        back = paired_metric(baseline, subject, counts, replicates=20, alpha=0.05, seed=1)
        assert forward.ratio == pytest.approx(forward.subject_perplexity / forward.baseline_perplexity, rel=1e-9)
        assert forward.ratio * back.ratio == pytest.approx(1.0, rel=1e-9)
        assert forward.subject_perplexity == back.baseline_perplexity == perplexity(subject, counts)

    @settings(max_examples=50, deadline=None)
    @given(WINDOWS, st.floats(-1, 1))
    def test_a_shift_of_all_losses_is_recovered(self, windows: list[tuple[float, float, int]], shift: float) -> None:
        baseline = [window[0] for window in windows]
        counts = [window[2] for window in windows]
        subject = [loss + shift for loss in baseline]
        metric = paired_metric(subject, baseline, counts, replicates=20, alpha=0.05, seed=1)
        assert math.log(metric.ratio) == pytest.approx(shift, abs=1e-9)
        assert metric.interval.low == pytest.approx(shift, abs=1e-9)
        assert metric.interval.high == pytest.approx(shift, abs=1e-9)

    def test_long_windows_weigh_more(self) -> None:
        metric = paired_metric([1.0, 2.0], [1.0, 1.0], [1, 3], replicates=20, alpha=0.05, seed=1)
        assert math.log(metric.ratio) == pytest.approx(0.75)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("side", ["subject", "baseline"])
    def test_needs_finite_losses(self, bad: float, side: str) -> None:
        subject, baseline = ([1.0, bad], [1.0, 2.0]) if side == "subject" else ([1.0, 2.0], [1.0, bad])
        with pytest.raises(FormatError, match="finite losses on both sides"):
            paired_metric(subject, baseline, [1, 1], replicates=20, alpha=0.05, seed=1)

    @pytest.mark.parametrize(("subject", "baseline"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0]), ([], [])])
    def test_needs_the_same_windows(self, subject: list[float], baseline: list[float]) -> None:
        with pytest.raises(FormatError, match="two lists of one length"):
            paired_metric(subject, baseline, [1] * len(subject), replicates=20, alpha=0.05, seed=1)


class TestInterval:
    def test_is_what_scipy_gives(self) -> None:
        rng = np.random.default_rng(3)
        differences, counts = rng.gamma(2.0, 0.05, 100), rng.integers(20, 128, 100).astype(np.float64)
        ours = bca_interval(differences, counts, replicates=1200, alpha=0.05, seed=7)
        expected = bootstrap(
            (differences, counts), weighted_mean, paired=True, vectorized=True, n_resamples=1200,
            confidence_level=0.95, method="BCa", rng=np.random.default_rng(7),
        ).confidence_interval  # fmt: skip
        assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), rel=1e-12)

    def test_has_the_width_of_theory_for_many_equal_windows(self) -> None:
        differences = np.random.default_rng(5).normal(0.1, 0.2, 2000)
        interval = bca_interval(differences, np.full(2000, 127.0), replicates=2000, alpha=0.05, seed=1)
        half = 1.96 * differences.std() / math.sqrt(2000)
        assert interval.low == pytest.approx(differences.mean() - half, abs=0.05 * half)
        assert interval.high == pytest.approx(differences.mean() + half, abs=0.05 * half)

    def test_is_the_same_every_time_and_another_with_another_seed(self) -> None:
        differences, counts = np.random.default_rng(0).normal(0, 1, 50), np.ones(50)
        first, again, other = (
            bca_interval(differences, counts, replicates=200, alpha=0.05, seed=seed) for seed in (1, 1, 2)
        )
        assert first == again != other

    def test_more_confidence_is_wider(self) -> None:
        differences, counts = np.random.default_rng(0).normal(0, 1, 50), np.ones(50)
        narrow, wide = (
            bca_interval(differences, counts, replicates=2000, alpha=alpha, seed=1) for alpha in (0.2, 0.01)
        )
        assert wide.low < narrow.low < narrow.high < wide.high

    @pytest.mark.parametrize("differences", [[0.25], [0.25] * 50, [0.0] * 50])
    def test_no_variation_has_no_width(self, differences: list[float]) -> None:
        interval = bca_interval(np.array(differences), np.ones(len(differences)), replicates=50, alpha=0.05, seed=1)
        assert interval.low == interval.high == pytest.approx(differences[0])

    @pytest.mark.parametrize("replicates", [3, 50])
    @pytest.mark.parametrize(
        "differences", [[0, 1], [0, 0, 1], [0, 1e-11], [1e-9, 2e-9], [0.0] * 60 + [1.0], [-1e38, 1e38, 5]]
    )
    def test_few_or_odd_windows_give_a_finite_interval_within_their_range(
        self, differences: list[float], replicates: int
    ) -> None:
        values = np.array(differences, dtype=np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for seed in range(20):
                interval = bca_interval(values, np.ones(len(values)), replicates=replicates, alpha=0.05, seed=seed)
                assert values.min() <= interval.low <= interval.high <= values.max()

    @pytest.mark.parametrize(("windows", "skewed"), [(100, False), (200, True), (400, True)])
    def test_covers_the_truth_as_often_as_it_says(self, windows: int, skewed: bool) -> None:
        """With windows of unequal length; the truth is the token-weighted mean over the population."""
        trials, rng = 600, np.random.default_rng(windows)
        counts = rng.integers(32, 128, (trials, windows)).astype(np.float64)
        noise = rng.gamma(2.0, 0.1, counts.shape) - 0.2 if skewed else rng.normal(0.0, 0.15, counts.shape)
        truth = 0.05
        covered = 0
        for differences, weights in zip(truth + noise, counts, strict=True):
            interval = bca_interval(differences, weights, replicates=400, alpha=0.05, seed=11)
            covered += interval.low <= truth <= interval.high
        assert 0.93 <= covered / trials <= 0.97


def test_tail_quantiles_are_those_of_the_differences() -> None:
    baseline = np.linspace(1, 2, 101)
    quantiles = tail_quantiles(list(baseline + np.linspace(0, 1, 101)), list(baseline))
    assert quantiles == pytest.approx({"q50": 0.5, "q90": 0.9, "q95": 0.95, "q99": 0.99, "max": 1.0})
