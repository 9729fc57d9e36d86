"""The simulation of runs on several hosts, some of which are lost, and what such runs are compared with."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from benchmarks.cluster_scheduling import bound, bound_with_losses, compare
from benchmarks.simulation import Cluster, Disturbance, Outcome, full_suite, simulate
from tests.support.schedules import require_exclusive_devices, work

TWO_HOSTS = Cluster(devices=1, hosts=2)


def happened(cluster: Cluster, outcome: Outcome) -> Cluster:
    return cluster._replace(losses={host: at for host, at in cluster.losses.items() if at < outcome.makespan})


def test_what_a_lost_host_was_making_is_made_again_elsewhere() -> None:
    plan = work(a=(10, 1, 5.0, 4))
    calm = simulate(plan, TWO_HOSTS)
    outcome = simulate(plan, TWO_HOSTS._replace(losses={1: 12.0}))

    assert (calm.makespan, calm.losses) == (20.0, [])
    assert outcome.makespan == 30.0
    assert outcome.done == Counter(range(4))
    (lost,) = [span for span in outcome.timeline if not span.finished]
    assert (lost.slot, lost.begin, lost.end) == ("host1-gpu0", 0.0, 12.0)
    (state,) = outcome.losses
    assert (state.at, state.hosts, len(state.left)) == (12.0, frozenset({0}), 3)
    assert [(holder.load, holder.host, holder.free) for holder in state.holders] == [("a", 0, 15.0)]


def test_a_host_that_is_lost_after_the_end_changes_nothing() -> None:
    plan = work(a=(10, 1, 5.0, 4))
    assert simulate(plan, TWO_HOSTS._replace(losses={1: 21.0})) == simulate(plan, TWO_HOSTS)


def test_the_bound_with_losses_pays_for_what_was_lost() -> None:
    plan, cluster = work(a=(10, 1, 5.0, 4)), TWO_HOSTS._replace(losses={1: 12.0})
    outcome = simulate(plan, cluster)

    # Both load for 10 s; whoever knew would end at 28 s with the 12 s of the lost host, and nobody else before 30 s.
    assert bound(plan, cluster) == pytest.approx(28, rel=2e-3)
    assert bound_with_losses(plan, cluster, outcome) == pytest.approx(30, rel=2e-3)


def test_the_bound_with_losses_pays_for_loading_again_what_lay_on_the_lost_host_alone() -> None:
    plan, cluster = work(long=(10, 1, 300.0, 1), other=(100, 1, 50.0, 1)), TWO_HOSTS._replace(losses={1: 110.0})
    outcome = simulate(plan, cluster)

    assert outcome.loads == Counter(long=1, other=2)
    # Of 460 s of device time the lost host gives 110 s.
    assert bound(plan, cluster) == pytest.approx(350, rel=2e-3)
    assert bound_with_losses(plan, cluster, outcome) == pytest.approx(460, rel=2e-3)
    assert outcome.makespan == 460.0


def test_no_run_ends_before_its_bounds() -> None:
    for seed in range(40):
        draw = random.Random(seed)
        devices, hosts = draw.randint(1, 4), draw.randint(2, 4)
        plan = work(
            **{
                f"m{number}": (draw.uniform(0, 50), draw.randint(1, devices), draw.uniform(1, 20), draw.randint(1, 12))
                for number in range(draw.randint(1, 5))
            }
        )
        losses = {host: draw.uniform(0, 150) for host in range(1, hosts) if draw.random() < 0.6}
        outcome = simulate(plan, Cluster(devices, hosts, losses))
        cluster = happened(Cluster(devices, hosts, losses), outcome)

        assert outcome.done == Counter(job.index for job in plan.jobs), seed
        assert bound(plan, cluster) <= bound_with_losses(plan, cluster, outcome) <= outcome.makespan * 1.0001, seed
        require_exclusive_devices(outcome)
        _require_lost_hosts_idle(outcome, cluster)


def _require_lost_hosts_idle(outcome: Outcome, cluster: Cluster) -> None:
    """Fail if something ran on a host that was lost."""
    for span in outcome.timeline:
        hosts = {cluster.slots()[slot] for slot in (span.slot, *span.borrowed)}
        assert len(hosts) == 1, "devices of several hosts"
        assert span.end <= cluster.losses.get(hosts.pop(), outcome.makespan)


@pytest.mark.parametrize("hosts", [2, 3, 4, 6])
def test_the_full_suite_takes_at_most_15_percent_more_than_the_bound_where_no_host_is_lost(hosts: int) -> None:
    assert compare(full_suite(80), hosts, 0, 0.0, Disturbance()).over <= 1.15


def test_lost_hosts_cost_little_more_than_they_cost_anybody() -> None:
    runs = [compare(full_suite(80), 3, seed, 0.25, Disturbance()) for seed in range(6)]

    assert any(run.outcome.losses for run in runs)
    assert sum(run.over for run in runs) / len(runs) <= 1.15
    assert max(run.over_with_losses for run in runs) <= 1.15
