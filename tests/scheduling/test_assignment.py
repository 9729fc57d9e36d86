"""Who gets which item next: rules, and whole runs in a simulation of the suite `full`."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any

import pytest

from benchmarks.scheduling import compare
from benchmarks.simulation import SLOW, Cluster, Disturbance, Outcome, Work, fitting, full_suite, simulate
from pytest_proofpack.scheduling.assignment import Assignment, Release, Start
from pytest_proofpack.scheduling.costs import GPU, Costs, Job, Load, ModelSize, forward_seconds
from tests.support.schedules import require_exclusive_devices, work

SPEEDS = {"1 GB/s": SLOW, "3 GB/s": GPU}


def assignment(plan: Work, slots: int, *, depth: int = 1) -> Assignment:
    made = Assignment(plan.jobs, Costs(plan.loads))
    for number in range(slots):
        made.add_slot(f"s{number}", depth=depth)
    return made


def started(orders: list[Start | Release]) -> dict[str, str]:
    return {order.slot: order.job.load for order in orders if isinstance(order, Start)}


def test_every_model_stays_on_one_worker_where_a_second_load_would_not_pay() -> None:
    outcome = simulate(work(a=(50, 1, 1.0, 20), b=(50, 1, 1.0, 20)), Cluster(3))

    assert outcome.loads == Counter(a=1, b=1)
    assert outcome.makespan == pytest.approx(70)


def test_a_model_is_spread_where_it_pays() -> None:
    outcome = simulate(work(a=(5, 1, 1.0, 40)), Cluster(4))

    assert outcome.loads == Counter(a=4)
    assert outcome.makespan == pytest.approx(15)


def test_an_idle_worker_helps_with_what_another_has_loaded() -> None:
    plan = work(long=(2, 1, 10.0, 20), short=(2, 1, 1.0, 5))
    outcome = simulate(plan, Cluster(2))

    assert outcome.loads["long"] == 2
    assert outcome.makespan < 120


def test_the_longest_item_of_a_model_goes_first() -> None:
    jobs = [Job(0, "a", "x", 1.0), Job(1, "a", "y", 9.0), Job(2, "a", "x", 1.0)]
    given = assignment(Work(jobs, [Load("a", 0.0)]), 1)
    order = given.decide(0.0)[0]

    assert isinstance(order, Start)
    assert order.job.index == 1


def test_what_takes_most_devices_goes_first_and_all_or_nothing() -> None:
    given = assignment(work(small=(1, 1, 1.0, 50), large=(1, 3, 1.0, 2), middle=(1, 2, 1.0, 2)), 4)
    orders = given.decide(0.0)

    assert [(order.slot, order.job.load, order.borrowed) for order in orders if isinstance(order, Start)] == [
        ("s0", "large", ("s1", "s2")),
        ("s3", "small", ()),
    ]


def test_lent_devices_come_back_only_when_nothing_is_left_on_them() -> None:
    given = assignment(work(large=(1, 2, 1.0, 1), small=(1, 1, 1.0, 4)), 2)
    (first,) = given.decide(0.0)
    assert isinstance(first, Start)
    given.complete("s0", first.job.index, 2.0)

    assert given.decide(2.0) == [Release("s0")]
    given.released("s0")
    assert started(given.decide(2.0)) == {"s0": "small", "s1": "small"}


def test_an_idle_worker_drops_what_it_has_loaded_so_that_it_can_lend_its_device() -> None:
    given = assignment(work(a=(100, 1, 1.0, 1), b=(100, 1, 9.0, 1)), 2)
    given.decide(0.0)
    slot = next(name for name in ("s0", "s1") if given.assigned(name)[0].load == "a")
    given.complete(slot, given.assigned(slot)[0].index, 5.0)

    assert given.decide(5.0) == [Release(slot)]
    assert given.decide(5.0) == []


def test_a_device_with_something_loaded_is_never_lent() -> None:
    plan = work(a=(100, 1, 1.0, 1), b=(100, 1, 1.0, 1), large=(1, 2, 1.0, 1))
    *small, large = plan.jobs
    given = assignment(Work(small, plan.loads), 2)
    assert started(given.decide(0.0)) == {"s0": "a", "s1": "b"}
    for slot, job in zip(("s0", "s1"), small, strict=True):
        given.complete(slot, job.index, 101.0)
    given.give_back([large])

    assert given.decide(101.0) == [Release("s0"), Release("s1")]
    given.released("s0")
    given.released("s1")
    assert started(given.decide(101.0)) == {"s0": "large"}


def test_small_loads_leave_room_for_large_ones_on_other_hosts() -> None:
    plan = work(large=(1, 2, 1.0, 2), small=(1, 1, 50.0, 1))
    small = [job for job in plan.jobs if job.load == "small"]
    given = Assignment(small, Costs(plan.loads))
    for slot, host in (("a", "two"), ("b", "two"), ("c", "one")):
        given.add_slot(slot, host=host)

    assert started(given.decide(0.0)) == {"c": "small"}
    given.give_back([job for job in plan.jobs if job.load == "large"])
    assert started(given.decide(1.0)) == {"a": "large"}


def test_who_has_nothing_to_do_keeps_what_others_may_lose_as_long_as_nothing_waits() -> None:
    plan = work(large=(1, 2, 10.0, 2), other=(1, 1, 1.0, 1))
    large, other = plan.jobs[:2], plan.jobs[2:]
    given = Assignment(large, Costs(plan.loads))
    for slot, host in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")):
        given.add_slot(slot, host=host)
    first, second = (order for order in given.decide(0.0) if isinstance(order, Start))
    assert given.complete(first.slot, first.job.index, 50.0)
    assert given.decide(50.0) == []

    given.give_back(given.remove_slot(second.slot))
    assert given.decide(60.0) == [Start(first.slot, second.job, first.borrowed)]
    assert given.complete(first.slot, second.job.index, 70.0)
    assert given.decide(70.0) == [Release(first.slot)]
    given.released(first.slot)
    given.give_back(other)
    assert started(given.decide(71.0))


def test_what_takes_longest_goes_to_the_host_of_the_session_and_the_rest_elsewhere() -> None:
    plan = work(short=(1, 1, 30.0, 1), long=(10, 1, 30.0, 2))
    given = Assignment(plan.jobs, Costs(plan.loads), home="two")
    for slot, host in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")):
        given.add_slot(slot, host=host)

    assert started(given.decide(0.0)) == {"a": "short", "c": "long", "d": "long"}


def test_work_on_hosts_that_may_be_lost_ends_in_time_for_its_last_item_to_be_made_again() -> None:
    plan = work(chain=(10, 1, 100.0, 1), other=(10, 1, 20.0, 5))

    def begun(*hosts: str) -> list[str]:
        given = Assignment(plan.jobs, Costs(plan.loads), home="one")
        for number, host in enumerate(hosts):
            given.add_slot(f"s{number}", host=host)
        return sorted(started(given.decide(0.0)).values())

    assert begun("one", "one", "one") == ["chain", "other"]  # both end after 110 s
    assert begun("one", "two", "two") == ["chain", "other", "other"]


def test_devices_that_are_about_to_be_free_are_waited_for_where_that_is_best() -> None:
    plan = work(first=(1, 2, 10.0, 1), large=(1, 3, 10.0, 1), small=(1, 1, 1.0, 1))
    first, large, small = plan.jobs
    given = Assignment([first], Costs(plan.loads))
    for slot in ("a", "b", "c"):
        given.add_slot(slot)
    given.decide(0.0)
    given.give_back([large, small])
    given.complete("a", first.index, 11.0)

    assert given.decide(11.0) == [Release("a")]  # and nothing smaller on the third one
    assert given.decide(70.0) == []
    assert started(copy.deepcopy(given).decide(72.0)) == {"c": "small"}  # that worker does not answer
    given.released("a")
    assert set(started(given.decide(11.0)).values()) == {"large"}


def test_devices_are_lent_within_one_host_only() -> None:
    plan = work(large=(1, 2, 1.0, 2))
    given = Assignment(plan.jobs, Costs(plan.loads))
    given.add_slot("a", host="one")
    given.add_slot("b", host="two")

    assert given.decide(0.0) == []
    given.add_slot("c", host="two")
    assert [order.slot for order in given.decide(0.0)] == ["b"]


def test_items_of_a_lost_worker_go_to_others_and_its_lent_devices_return() -> None:
    given = assignment(work(large=(1, 2, 1.0, 2), small=(1, 1, 1.0, 2)), 2)
    given.decide(0.0)
    lost = given.remove_slot("s0")
    given.give_back(lost)

    assert started(given.decide(1.0)) == {"s1": "small"}
    given.add_slot("s0")
    assert given.decide(1.0)  # the small model is joined, or the large one waits for both
    assert {job.index for job in lost} <= {0, 1}


def test_a_worker_that_needs_its_next_item_beforehand_gets_two() -> None:
    given = assignment(work(a=(1, 1, 1.0, 4)), 1, depth=2)

    assert len(given.decide(0.0)) == 2
    assert given.decide(0.0) == []
    given.complete("s0", given.assigned("s0")[0].index, 2.0)
    assert len(given.decide(2.0)) == 1


def test_an_item_that_the_worker_was_not_given_changes_nothing() -> None:
    given = assignment(work(a=(1, 1, 1.0, 2)), 1)
    (order,) = given.decide(0.0)
    assert isinstance(order, Start)

    assert not given.complete("s0", 1 - order.job.index, 1.0)
    assert given.complete("s0", order.job.index, 1.0)
    assert not given.complete("s0", order.job.index, 1.0)


def test_costs_follow_what_was_observed() -> None:
    jobs = [Job(0, "a", "x", 1.0), Job(1, "a", "y", 2.0), Job(2, "b", "x", 4.0)]
    costs = Costs([Load("a", 10.0), Load("b", 20.0)])
    costs.observe(jobs[0], 33.0, loaded=True)
    assert costs.load_seconds("b") == pytest.approx(60)  # both parts of 11 s took three times as long

    costs.observe(jobs[0], 5.0, loaded=False)

    assert [costs.seconds(job) for job in jobs] == [5.0, 10.0, 20.0]
    assert costs.load_seconds("a") == pytest.approx(28)
    assert costs.load_seconds("b") == pytest.approx(56)


def test_what_needs_nothing_loaded_says_nothing_about_certificates() -> None:
    costs = Costs([Load("model", 10.0), Load("other tests", 0.0)])
    reused, other = (Job(index, "other tests", "reused", 0.1) for index in range(2))
    certificate = Job(2, "model", "quant_rtn:ffn", 4.0)
    costs.observe(reused, 0.001, loaded=False)

    assert costs.seconds(other) == 0.001
    assert costs.seconds(certificate) == 4.0


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("gigabytes", [80, 141])
@pytest.mark.parametrize("devices", range(1, 9))
def test_the_full_suite_takes_at_most_15_percent_more_than_a_lower_bound(
    speed: str, gigabytes: int, devices: int
) -> None:
    plan = fitting(full_suite(gigabytes, SPEEDS[speed]), devices)
    ((outcome, simple, with_loads),) = compare(plan, devices, Disturbance(), 1)

    assert outcome.done == Counter(job.index for job in plan.jobs)
    assert with_loads <= simple <= 1.15
    require_exclusive_devices(outcome)


@pytest.mark.parametrize("devices", [1, 3, 5, 8])
def test_wrong_guesses_are_put_right(devices: int) -> None:
    plan = fitting(full_suite(141), devices)
    runs = compare(plan, devices, Disturbance(model=0.4, item=0.25, load=0.4), 10)

    assert sum(with_loads for _, _, with_loads in runs) / len(runs) <= 1.1
    assert max(with_loads for _, _, with_loads in runs) <= 1.25
    for outcome, _, _ in runs:
        assert outcome.done == Counter(job.index for job in plan.jobs)
        require_exclusive_devices(outcome)


@pytest.mark.parametrize("devices", range(2, 9))
@pytest.mark.parametrize("gigabytes", [80, 141])
def test_no_model_is_loaded_on_more_workers_than_needed(gigabytes: int, devices: int) -> None:
    plan = fitting(full_suite(gigabytes), devices)
    outcome = simulate(plan, Cluster(devices))

    assert sum(outcome.loads.values()) <= len(plan.loads) + devices
    for model, number in outcome.loads.items():
        if number > 1:
            without = simulate(plan, Cluster(devices), policy=_limited(model, number - 1))
            assert without.loads[model] < number
            assert _device_time(plan, without, devices) >= 0.99 * _device_time(plan, outcome, devices)


def _limited(model: str, most: int) -> type[Assignment]:
    """Return the policy that never has a model on more workers than so many at a time."""

    class Limited(Assignment):
        def _candidates(self, load: str, *args: Any, **kwargs: Any) -> Any:
            held = sum(1 for slot in self._slots.values() if slot.queue and slot.load == load)
            return [] if load == model and held >= most else super()._candidates(load, *args, **kwargs)

    return Limited


def _device_time(plan: Work, outcome: Outcome, devices: int) -> float:
    """Return the device time that a run takes, until its end and for its loads: what the policy minimizes."""
    loads = sum(load.seconds * load.devices * outcome.loads[load.id] for load in plan.loads)
    return devices * outcome.makespan + loads


@pytest.mark.parametrize("devices", [4, 8])
@pytest.mark.parametrize("gigabytes", [80, 141])
def test_the_same_calls_get_the_same_answers(gigabytes: int, devices: int) -> None:
    plan = full_suite(gigabytes)

    assert simulate(plan, Cluster(devices)).timeline == simulate(plan, Cluster(devices)).timeline


def test_random_plans_are_finished_whatever_they_are() -> None:
    for seed in range(60):
        draw = random.Random(seed)
        devices = draw.randint(1, 8)
        models = {
            f"m{number}": (draw.uniform(0, 50), draw.randint(1, devices), draw.uniform(0.1, 20), draw.randint(1, 30))
            for number in range(draw.randint(1, 7))
        }
        plan = work(**models)
        ((outcome, _, _),) = compare(plan, devices, Disturbance(0.5, 0.5, 0.5), 1)

        assert outcome.done == Counter(job.index for job in plan.jobs), seed
        first = models[outcome.timeline[0].load]
        assert first[1] == max(devices for _, devices, _, _ in models.values()), "something smaller went first"
        require_exclusive_devices(outcome)


@pytest.mark.parametrize(("certificates", "workers"), [(1, 1), (4, 2), (12, 4), (34, 4)])
def test_a_few_certificates_of_7b_are_worth_a_load_on_each_of_four_gpus(certificates: int, workers: int) -> None:
    size = ModelSize(active=7.24e9, weights=14.5e9, tokens=200 * 512)
    seconds = forward_seconds(size, GPU), GPU.start + size.weights / GPU.load
    outcome = simulate(work(a=(seconds[1], 1, seconds[0], certificates)), Cluster(4))

    assert outcome.loads["a"] == workers


def test_workers_begin_on_different_window_samples() -> None:
    """What the baseline reads on a sample is measured by one of them, and nobody waits for it."""
    jobs = [Job(index, "a", "x", seconds, run) for index, (seconds, run) in enumerate([(5, 1), (4, 1), (3, 2), (2, 3)])]
    given = Assignment(jobs, Costs([Load("a", 1.0)]))
    for slot in ("s0", "s1", "s2"):
        given.add_slot(slot)

    first = {order.slot: order.job.index for order in given.decide(0.0) if isinstance(order, Start)}
    assert sorted(first.values()) == [0, 2, 3]  # not 1, though it takes longer
    done = next(slot for slot, index in first.items() if index == 3)
    assert given.complete(done, 3, 2.0)
    assert [order.job.index for order in given.decide(2.0) if isinstance(order, Start)] == [1]


def test_nobody_waits_for_a_worker_whose_item_is_overdue() -> None:
    made = assignment(work(a=(1000, 1, 1.0, 5)), 2)
    assert started(made.decide(0.0)) == {"s0": "a"}  # a second load would not pay
    (item,) = made.running(2900.0)
    assert (item.slot, item.seconds, item.forecast, item.placed) == ("s0", 2900.0, 1001.0, False)
    assert not item.overdue
    assert made.decide(2900.0) == []
    assert made.running(3100.0)[0].overdue
    assert started(made.decide(3100.0)) == {"s1": "a"}
    assert made.seconds_left(3100.0) == pytest.approx(3100.0)  # as long again as it has taken


def test_a_wait_for_devices_is_no_time_of_an_item() -> None:
    made = assignment(work(a=(10, 1, 1.0, 1)), 1)
    made.decide(0.0)
    made.placed("s0", 500.0)
    (item,) = made.running(505.0)
    assert (item.seconds, item.placed, item.overdue) == (5.0, True, False)


def test_a_fresh_worker_begins_with_what_its_predecessor_left() -> None:
    made = assignment(work(a=(10, 1, 1.0, 1), b=(10, 1, 5.0, 3)), 2)
    made.decide(0.0)
    (job,) = [job for job in [*made.assigned("s0"), *made.assigned("s1")] if job.load == "a"]
    slot = next(slot for slot in ("s0", "s1") if made.assigned(slot) == [job])
    assert made.remove_slot(slot) == [job]
    made.add_slot(slot)
    made.expect(slot, job)
    assert made.busy
    assert made.decide(1.0)[0] == Start(slot, job)
