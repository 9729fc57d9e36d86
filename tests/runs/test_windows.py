"""Windows that cannot hold what a tier demands are refused before any work, with the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import WindowPlan
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.runs.windows import require_enough_windows, require_windows_asked
from tests.support.default_settings import DEFAULTS


@pytest.fixture(scope="module")
def run() -> Run:
    return resolve_run(replace(DEFAULTS, suite="tiny", out="unused"))


def on(run: Run, **windows: int) -> Run:
    return replace(run, suite=replace(run.suite, windows=replace(run.suite.windows, **windows)))


def test_too_few_tokens_are_told_with_both_numbers(run: Run) -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_windows_asked(on(run, seq_len=64, preview=20, final=20))
    assert str(caught.value).startswith(
        "suite tiny: windows: 20 preview and 20 final windows of 64 tokens hold 2,520 scored tokens, 1,260 of them in "
        "the final ones, and the perplexity gate demands at least 50,000 tokens, 25,000 of them in at least 64 final "
        "windows, so no certificate of proofpack/tiny could pass."
    )


@pytest.mark.parametrize(("preview", "final", "enough"), [(197, 197, True), (300, 196, False), (8, 1000, True)])
def test_the_final_ones_need_their_share(run: Run, preview: int, final: int, enough: bool) -> None:
    plan = WindowPlan(128, preview, final, 42)
    if enough:
        assert require_enough_windows(run, "m", plan) is None
        return
    with pytest.raises(ConfigurationError, match=r"24,892 of them in the final ones"):
        require_enough_windows(run, "m", plan)


def test_limits_of_ones_own_and_tuning_demand_less(run: Run) -> None:
    few = on(run, seq_len=64, preview=20, final=20)
    thresholds = {**run.policy.thresholds, "primary_metric": {**run.policy.section("primary_metric"), "min_tokens": 9}}
    thresholds["primary_metric"]["min_final_windows"] = 20
    require_windows_asked(replace(few, policy=replace(run.policy, thresholds=thresholds)))
    require_windows_asked(replace(few, settings=replace(run.settings, mode="tune")))


def test_where_nothing_has_to_pass_it_is_a_warning(run: Run) -> None:
    requests = tuple(request for request in run.requests if request.scenario.strictness != "must_pass")
    mild = replace(run, plan=replace(run.plan, requests=requests))
    warning = require_enough_windows(mild, "m", WindowPlan(64, 20, 20, 42))
    assert warning is not None
    assert "it fails in every certificate, whatever was done" in warning


def test_what_the_model_decides_is_not_guessed(run: Run) -> None:
    require_windows_asked(on(replace(run), seq_len=None, preview=1, final=64))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="could pass"):
        require_enough_windows(run, "m", WindowPlan(128, 1, 64, 42))
