"""A run of the suite `full` in a simulation, on one host or several of which some are lost: no GPU, no model.

The policy that hands out the work is the real one; durations are made up from sizes, times random factors that the
policy does not know beforehand. `benchmarks.scheduling` and `benchmarks.cluster_scheduling` compare such runs with
lower bounds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.plan.suites import default_windows, load_suite, plan_certificates
from pytest_proofpack.scheduling.assignment import Assignment, Release, Start
from pytest_proofpack.scheduling.costs import (
    GPU,
    Costs,
    Job,
    Load,
    ModelSize,
    Speed,
    certificate_seconds,
    kind_of,
    load_of,
)

ACTIVE = {"mistralai/Mixtral-8x7B-v0.1": 12_879_138_816}
"""Parameters that a token passes through, where these are not all."""


SLOW = replace(GPU, load=1e9, start=5.0)
"""With a file system of 1 GB/s: there a load costs most, and with it every one too many."""
_HOME = "host0"
"""The host that the session runs on."""


class Work(NamedTuple):
    """A suite's plan as the scheduler sees it."""

    jobs: list[Job]
    loads: list[Load]

    def seconds(self) -> dict[str, float]:
        """Return what the items of each load take together."""
        return {load.id: sum(job.seconds for job in self.jobs if job.load == load.id) for load in self.loads}


class Cluster(NamedTuple):
    """The hosts of a run.

    Attributes:
        devices: of each host.
        hosts: how many there are at the begin.
        losses: when a host is lost for good, in seconds from the begin; those that are not in it stay.
    """

    devices: int
    hosts: int = 1
    losses: Mapping[int, float] = {}

    def slots(self) -> dict[str, int]:
        """Return the host of every device slot at the begin."""
        return {f"host{host}-gpu{number}": host for host in range(self.hosts) for number in range(self.devices)}


class Span(NamedTuple):
    """An item that ran, or was lost with its host.

    Attributes:
        begin: when it was begun, in seconds.
        end: when it was finished, or its host was lost.
        slot: where.
        load: what it needs.
        borrowed: slots whose devices it used besides.
        item: its index.
        fresh: whether it began with a load.
        finished: whether it was finished.
    """

    begin: float
    end: float
    slot: str
    load: str
    borrowed: tuple[str, ...]
    item: int
    fresh: bool
    finished: bool = True


class Holder(NamedTuple):
    """What is loaded somewhere, or being loaded.

    Attributes:
        load: what.
        host: where.
        free: when it ends the item that it runs, if nothing happens to its host; the moment itself if it runs none.
        running: that item.
    """

    load: str
    host: int
    free: float
    running: Job | None


class AfterLoss(NamedTuple):
    """A run right after a host was lost.

    Attributes:
        at: the moment, in seconds.
        hosts: those that are left.
        left: the items that are neither done nor running on a host that is left.
        holders: what is loaded on the hosts that are left.
    """

    at: float
    hosts: frozenset[int]
    left: tuple[Job, ...]
    holders: tuple[Holder, ...]


@dataclass
class Outcome:
    """How a simulated run went.

    Attributes:
        makespan: seconds from begin to end.
        loads: how often each model was loaded.
        done: how often each item was finished, by index.
        timeline: every item, in the order in which they were begun.
        losses: the run after each loss of a host that happened before its end.
    """

    makespan: float = 0.0
    loads: Counter[str] = field(default_factory=Counter)
    done: Counter[int] = field(default_factory=Counter)
    timeline: list[Span] = field(default_factory=list)
    losses: list[AfterLoss] = field(default_factory=list)


def devices_needed(parameters: float, gigabytes: float) -> int:
    """Return how many devices a model takes in bfloat16, if its weights x 1.15 + 4 GB have to fit."""
    return math.ceil((2 * parameters * 1.15 + 4e9) / (gigabytes * 1e9))


def full_suite(gigabytes: float, speed: Speed = SLOW) -> Work:
    """Return the plan of the suite ``full`` for devices of so much memory."""
    plan = plan_certificates(load_suite("full"))
    needed = resolve_policy("balanced").section("primary_metric")["min_tokens"]
    jobs: list[Job] = []
    loads: dict[str, Load] = {}
    for index, request in enumerate(plan.requests):
        parameters = request.model.parameters
        assert parameters is not None
        length, windows = default_windows(parameters, None, None, needed)
        active = ACTIVE.get(request.model.id, parameters)
        devices = devices_needed(parameters, gigabytes)
        size = ModelSize(active=active, weights=2 * parameters, tokens=2 * windows * length, devices=devices)
        load = loads.setdefault(request.model.id, load_of(request, size, speed))
        jobs.append(Job(index, load.id, kind_of(request), certificate_seconds(request, size, speed)))
    return Work(jobs, list(loads.values()))


def fitting(work: Work, devices: int) -> Work:
    """Leave out what takes more devices than there are: it is refused before anything runs."""
    loads = [load for load in work.loads if load.devices <= devices]
    names = {load.id for load in loads}
    return Work([job for job in work.jobs if job.load in names], loads)


class Disturbance(NamedTuple):
    """How far durations are from the guesses: standard deviations of the logarithm of the factor.

    Attributes:
        model: of all certificates of a model alike.
        item: of each certificate besides.
        load: of the load of a model.
    """

    model: float = 0.0
    item: float = 0.0
    load: float = 0.0


def disturbed(work: Work, disturbance: Disturbance, seed: int) -> Work:
    """Return the plan as it turns out: the guesses times random factors."""
    draw = random.Random(seed)
    model = {load.id: draw.lognormvariate(0, disturbance.model) for load in work.loads}
    return Work(
        [
            replace(job, seconds=job.seconds * model[job.load] * draw.lognormvariate(0, disturbance.item))
            for job in work.jobs
        ],
        [replace(load, seconds=load.seconds * draw.lognormvariate(0, disturbance.load)) for load in work.loads],
    )


def simulate(
    work: Work,
    cluster: Cluster,
    truth: Work | None = None,
    policy: Callable[[list[Job], Costs, str], Assignment] = Assignment,
) -> Outcome:
    """Run a plan on the devices of a cluster, and return how that went.

    Args:
        work: the plan, with what the policy guesses that everything takes.
        cluster: the hosts. What a lost one was making is made again by others.
        truth: the same plan with what everything takes in fact; None for what was guessed.
        policy: hands out the work.
    """
    return _Simulation(work, cluster, truth or work, policy).run()


class _Simulation:
    """A run: what happens next, what is loaded where, what runs."""

    def __init__(
        self, work: Work, cluster: Cluster, truth: Work, policy: Callable[[list[Job], Costs, str], Assignment]
    ) -> None:
        self._truth = {job.index: job for job in truth.jobs}
        self._load_seconds = {load.id: load.seconds for load in truth.loads}
        self._slots = cluster.slots()
        self._assignment = policy(work.jobs, Costs(work.loads), _HOME)
        for slot, host in self._slots.items():
            self._assignment.add_slot(slot, f"host{host}")
        self._held: dict[str, str] = {}
        self._running: dict[str, int] = {}
        self._outcome = Outcome()
        # A host is lost before anything else that happens at that moment.
        self._events: list[tuple[float, int, Start | Release | int]] = [
            (at, -1, host) for host, at in cluster.losses.items()
        ]
        heapq.heapify(self._events)

    def run(self) -> Outcome:
        """Go on until all is done, or nothing more can happen."""
        now, count = 0.0, 0
        while True:
            for order in self._assignment.decide(now):
                end = self._start(order, now) if isinstance(order, Start) else now
                count += 1
                heapq.heappush(self._events, (end, count, order))
            if not self._events or len(self._outcome.done) == len(self._truth):
                return self._outcome
            now, _, event = heapq.heappop(self._events)
            if isinstance(event, int):
                self._lose(event, now)
            elif event.slot in self._slots:
                self._end(event, now)

    def _start(self, order: Start, now: float) -> float:
        """Begin an item and return when it ends."""
        load = order.job.load
        fresh = self._held.get(order.slot) != load
        end = now + self._truth[order.job.index].seconds + (self._load_seconds[load] if fresh else 0.0)
        self._held[order.slot] = load
        self._outcome.loads[load] += fresh
        self._running[order.slot] = len(self._outcome.timeline)
        self._outcome.timeline.append(Span(now, end, order.slot, load, order.borrowed, order.job.index, fresh))
        return end

    def _end(self, order: Start | Release, now: float) -> None:
        if isinstance(order, Release):
            del self._held[order.slot]
            self._assignment.released(order.slot)
        else:
            del self._running[order.slot]
            self._assignment.complete(order.slot, order.job.index, now)
            self._outcome.done[order.job.index] += 1
            self._outcome.makespan = now

    def _lose(self, host: int, now: float) -> None:
        for slot in [slot for slot, its in self._slots.items() if its == host]:
            self._assignment.give_back(self._assignment.remove_slot(slot))
            self._held.pop(slot, None)
            del self._slots[slot]
            if slot in self._running:
                at = self._running.pop(slot)
                self._outcome.timeline[at] = self._outcome.timeline[at]._replace(end=now, finished=False)
        self._outcome.losses.append(self._after_loss(now))

    def _after_loss(self, now: float) -> AfterLoss:
        running = {slot: self._outcome.timeline[at] for slot, at in self._running.items()}
        settled = self._outcome.done.keys() | {span.item for span in running.values()}
        holders = []
        for slot, load in self._held.items():
            span = running.get(slot)
            end, job = (span.end, self._truth[span.item]) if span is not None else (now, None)
            holders.append(Holder(load, self._slots[slot], end, job))
        left = tuple(job for job in self._truth.values() if job.index not in settled)
        return AfterLoss(now, frozenset(self._slots.values()), left, tuple(holders))
