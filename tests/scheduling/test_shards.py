"""Which certificates are in which shard: everybody finds the same, models stay together, nothing is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.plan.suites import plan_certificates
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.scheduling.shards import shares
from tests.support.default_settings import DEFAULTS


def run_of(*parameters: int | None, suite: str = "full") -> Run:
    """Return a run of a packaged suite, with models of these sizes."""
    run = resolve_run(replace(DEFAULTS, suite=suite, out="run"))
    models = tuple(ModelSpec(f"acme/model-{number}", parameters=size) for number, size in enumerate(parameters))
    changed = replace(run.suite, models=models or run.suite.models)
    return replace(run, suite=changed, plan=plan_certificates(changed))


def models_of(run: Run, share: frozenset[str]) -> set[str]:
    return {request.model.id for request in run.requests if request.id in share}


@pytest.mark.parametrize("suite", ["tiny", "subset", "full"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16, 22])
def test_every_certificate_is_in_one_shard_and_no_shard_is_empty(suite: str, count: int) -> None:
    run = run_of(suite=suite)
    found = shares(run, count)

    assert len(found) == count
    assert all(found)
    assert sorted(id_ for share in found for id_ in share) == sorted(request.id for request in run.requests)


def test_as_many_shards_as_certificates_have_one_each() -> None:
    run = run_of(suite="tiny")
    assert {len(share) for share in shares(run, len(run.requests))} == {1}


def test_models_of_one_size_stay_whole_where_they_can_be_dealt_evenly() -> None:
    run = run_of(*[7_000_000_000] * 4)
    assert [len(models_of(run, share)) for share in shares(run, 4)] == [1, 1, 1, 1]
    assert [len(models_of(run, share)) for share in shares(run, 2)] == [2, 2]


def test_a_model_that_is_most_of_the_work_is_cut_and_the_small_ones_are_not() -> None:
    run = run_of(70_000_000_000, 1_000_000_000, 1_000_000_000)
    found = shares(run, 3)
    holders = {
        model: sum(model in models_of(run, share) for share in found)
        for model in models_of(run, frozenset.union(*found))
    }

    assert holders == {"acme/model-0": 3, "acme/model-1": 1, "acme/model-2": 1}


def test_a_piece_of_a_model_is_on_few_draws_of_windows() -> None:
    run = run_of(7_000_000_000)
    runs = [{request.run for request in run.requests if request.id in share} for share in shares(run, 4)]
    assert sum(map(len, runs)) <= len(set.union(*runs)) + 3  # a cut adds one draw at most


def test_only_the_plan_decides_and_not_what_a_host_has_or_uses() -> None:
    run = run_of()
    elsewhere = replace(run, settings=replace(run.settings, device="cpu", gpu_memory=8.0, out="elsewhere"))
    assert shares(run, 5) == shares(elsewhere, 5)


def test_models_of_unknown_size_count_like_the_others() -> None:
    run = run_of(None, None)
    assert [len(models_of(run, share)) for share in shares(run, 2)] == [1, 1]
