"""How long the suite `full` takes on 1 to 8 devices, over a lower bound, in a simulation: no GPU, no model.

    python -m benchmarks.scheduling
    python -m benchmarks.scheduling --load-rate=3

The policy that hands out the work is the real one; durations are made up from sizes, times a random factor that the
policy does not know beforehand. The simple bound is the largest of

- device time over devices: the sum, over the models, of devices x (one load + its certificates), over all devices;
- for every k, the models that take at least k devices: at most devices // k of them can run at once, each of them is
  loaded once, so the sum of (load + certificates) over devices // k;
- one load and the longest certificate of any model.

It pays for one load per model, but a model that is to be done by the time T is needed on at least
certificates / (T - load) groups of devices, and each of them loads it. The bound with loads is the smallest T at
which the device time, with that many loads, fits.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable
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


class Work(NamedTuple):
    """A suite's plan as the scheduler sees it."""

    jobs: list[Job]
    loads: list[Load]


@dataclass
class Outcome:
    """How a simulated run went.

    Attributes:
        makespan: seconds from begin to end.
        loads: how often each model was loaded.
        done: how often each item was finished, by index.
        timeline: (begin, end, slot, load id, slots whose devices it used) of every item.
    """

    makespan: float = 0.0
    loads: Counter[str] = field(default_factory=Counter)
    done: Counter[int] = field(default_factory=Counter)
    timeline: list[tuple[float, float, str, str, tuple[str, ...]]] = field(default_factory=list)


def devices_needed(parameters: float, gigabytes: float) -> int:
    """Return how many devices a model takes in bfloat16, if its weights x 1.15 + 4 GB have to fit."""
    return math.ceil((2 * parameters * 1.15 + 4e9) / (gigabytes * 1e9))


def full_suite(gigabytes: float, speed: Speed = GPU) -> Work:
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


def simulate(
    work: Work,
    devices: int,
    truth: Callable[[Job], float] = lambda job: job.seconds,
    load_truth: Callable[[Load], float] = lambda load: load.seconds,
    policy: Callable[[list[Job], Costs], Assignment] = Assignment,
) -> Outcome:
    """Run a plan on so many devices of one host; ``truth`` and ``load_truth`` say what takes how long in fact."""
    loads = {load.id: load for load in work.loads}
    assignment = policy(work.jobs, Costs(work.loads))
    for number in range(devices):
        assignment.add_slot(f"gpu{number}")
    outcome, now = Outcome(), 0.0
    held: dict[str, str] = {}
    events: list[tuple[float, int, Start | Release]] = []
    count = 0
    while True:
        for order in assignment.decide(now):
            end = now
            if isinstance(order, Start):
                load = loads[order.job.load]
                fresh = held.get(order.slot) != load.id
                outcome.loads[load.id] += fresh
                held[order.slot] = load.id
                end += truth(order.job) + (load_truth(load) if fresh else 0.0)
                outcome.timeline.append((now, end, order.slot, load.id, order.borrowed))
            count += 1
            heapq.heappush(events, (end, count, order))
        if not events:
            return outcome
        now, _, order = heapq.heappop(events)
        if isinstance(order, Release):
            del held[order.slot]
            assignment.released(order.slot)
        else:
            assignment.complete(order.slot, order.job.index, now)
            outcome.done[order.job.index] += 1
            outcome.makespan = now


def _certificates(work: Work) -> dict[str, float]:
    return {load.id: sum(job.seconds for job in work.jobs if job.load == load.id) for load in work.loads}


def simple_bound(work: Work, devices: int) -> float:
    """Return a time before which no schedule ends, with one load per model. The formula is in the module's text."""
    seconds = _certificates(work)
    bounds = [sum(load.devices * (load.seconds + seconds[load.id]) for load in work.loads) / devices]
    for least in range(1, devices + 1):
        chain = sum(load.seconds + seconds[load.id] for load in work.loads if load.devices >= least)
        bounds.append(chain / (devices // least))
    longest = {load.id: max(job.seconds for job in work.jobs if job.load == load.id) for load in work.loads}
    bounds += [load.seconds + longest[load.id] for load in work.loads]
    return max(bounds)


def bound_with_loads(work: Work, devices: int) -> float:
    """Return a time before which no schedule ends, with as many loads as ending then takes."""
    seconds = _certificates(work)

    def fits(end: float) -> bool:
        total = 0.0
        for load in work.loads:
            groups = math.ceil(seconds[load.id] / (end - load.seconds) - 1e-9)
            if groups > devices // load.devices:
                return False
            total += load.devices * (seconds[load.id] + groups * load.seconds)
        return total <= devices * end

    low = simple_bound(work, devices)
    high = low * 4
    if fits(low):
        return low
    while high - low > 1e-3 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return low


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


def compare(work: Work, devices: int, disturbance: Disturbance, draws: int) -> list[tuple[Outcome, float, float]]:
    """Return runs of a plan, one per draw, each with its ratios to the simple bound and to the bound with loads."""
    found = []
    for seed in range(draws):
        truth = disturbed(work, disturbance, seed)
        items = {job.index: job.seconds for job in truth.jobs}
        loads = {load.id: load.seconds for load in truth.loads}
        outcome = simulate(work, devices, lambda job: items[job.index], lambda load: loads[load.id])  # noqa: B023
        span = outcome.makespan
        found.append((outcome, span / simple_bound(truth, devices), span / bound_with_loads(truth, devices)))
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load-rate", type=float, default=GPU.load / 1e9, help="GB/s from checkpoint to device")
    parser.add_argument("--draws", type=int, default=20, help="disturbed runs per line")
    options = parser.parse_args()
    speed = replace(GPU, load=options.load_rate * 1e9)
    disturbance = Disturbance(model=0.4, item=0.25, load=0.4)
    print(f"loads at {options.load_rate:g} GB/s; disturbed: {options.draws} draws, {disturbance}")
    print("devices  memory  items  makespan  bound  over it  over bound with loads  disturbed, both: mean (max)  loads")
    for gigabytes in (80, 141):
        whole = full_suite(gigabytes, speed)
        for devices in range(1, 9):
            work = fitting(whole, devices)
            (outcome, simple, loads), *_ = compare(work, devices, Disturbance(), 1)
            runs = compare(work, devices, disturbance, options.draws)
            noisy = [
                f"{statistics.mean(ratios):.2f} ({max(ratios):.2f})"
                for ratios in ([run[1] for run in runs], [run[2] for run in runs])
            ]
            print(
                f"{devices:7}  {gigabytes:3} GB  {len(work.jobs):5}  {outcome.makespan:6.0f} s  "
                f"{simple_bound(work, devices):4.0f}s  {simple:7.3f}  {loads:21.3f}  {noisy[0]:>13}{noisy[1]:>13}  "
                + " ".join(str(outcome.loads[load.id]) for load in work.loads)
            )


if __name__ == "__main__":
    main()
