"""How long the suite `full` takes on 1 to 8 hosts of 8 GPUs, hosts lost on the way, in a simulation: no GPU, no model.

    python -m benchmarks.cluster_scheduling
    python -m benchmarks.cluster_scheduling --draws 50 --loss 0.5

The policy is the real one, the one of workers and of `--proofpack-ray`; durations are those of `benchmarks.scheduling`,
times random factors that the policy does not know. Every host but the first is lost with a given probability, at a
moment drawn evenly from the time that the run would take without losses, and does not come back: what its processes
were just making is made again by others.

The bound is the smallest T at which the device time of all certificates, and of as many loads as ending at T takes,
fits into what the hosts that are left give until T; and no less than one load and the longest certificate of any model.
It does not pay for what was lost, nor for loading again what a lost host had loaded.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.scheduling import Disturbance, Outcome, Work, disturbed, full_suite
from pytest_proofpack.scheduling.assignment import Assignment, Release, Start
from pytest_proofpack.scheduling.costs import GPU, Costs, Job, Load

GPUS = 8
"""Of a host."""
Losses = Mapping[int, float]
"""When a host is lost, in seconds from the begin; those that are not in it stay."""
_LOST = -1


def simulate(
    work: Work, hosts: int, losses: Losses, truth: Callable[[Job], float], load_truth: Callable[[Load], float]
) -> Outcome:
    """Run a plan on so many hosts; ``truth`` and ``load_truth`` say what takes how long in fact."""
    loads = {load.id: load for load in work.loads}
    assignment = Assignment(work.jobs, Costs(work.loads))
    slots = {f"host{host}-gpu{number}": host for host in range(hosts) for number in range(GPUS)}
    for slot, host in slots.items():
        assignment.add_slot(slot, f"host{host}")
    outcome, now, count = Outcome(), 0.0, 0
    held: dict[str, str] = {}
    events: list[tuple[float, int, Start | Release | int]] = [(at, _LOST, host) for host, at in losses.items()]
    heapq.heapify(events)
    while True:
        for order in assignment.decide(now):
            end = now
            if isinstance(order, Start):
                load = loads[order.job.load]
                fresh = held.get(order.slot) != load.id
                outcome.loads[load.id] += fresh
                held[order.slot] = load.id
                end += truth(order.job) + (load_truth(load) if fresh else 0.0)
            count += 1
            heapq.heappush(events, (end, count, order))
        if not events or len(outcome.done) == len(work.jobs):
            return outcome
        now, _, event = heapq.heappop(events)
        if isinstance(event, int):
            for slot in [slot for slot, host in slots.items() if host == event]:
                assignment.give_back(assignment.remove_slot(slot))
                held.pop(slot, None)
                del slots[slot]
        elif event.slot not in slots:
            continue
        elif isinstance(event, Release):
            held.pop(event.slot, None)
            assignment.released(event.slot)
        else:
            assignment.complete(event.slot, event.job.index, now)
            outcome.done[event.job.index] += 1
            outcome.makespan = now


def bound(work: Work, hosts: int, losses: Losses) -> float:
    """Return a time before which no schedule ends; the formula is in the module's text."""
    seconds = Counter[str]()
    for job in work.jobs:
        seconds[job.load] += job.seconds  # type: ignore[assignment]
    longest = max(load.seconds + max(job.seconds for job in work.jobs if job.load == load.id) for load in work.loads)

    def capacity(end: float) -> float:
        return sum(GPUS * min(end, losses.get(host, end)) for host in range(hosts))

    def fits(end: float) -> bool:
        total = 0.0
        for load in work.loads:
            groups = math.ceil(seconds[load.id] / (end - load.seconds) - 1e-9)
            if groups > hosts * (GPUS // load.devices):
                return False
            total += load.devices * (seconds[load.id] + groups * load.seconds)
        return total <= capacity(end)

    low, high = longest, longest
    while not fits(high):
        high *= 2
    while high - low > 1e-3 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return low


def compare(work: Work, hosts: int, seed: int, loss: float, disturbance: Disturbance) -> tuple[Outcome, float, int]:
    """Return a run, its time over the bound, and how many hosts were lost.

    Args:
        work: the plan.
        hosts: how many there are at the begin.
        seed: of what is drawn.
        loss: with which probability each host but the first is lost.
        disturbance: how far durations are from the guesses.
    """
    truth, draw = disturbed(work, disturbance, seed), random.Random(seed)
    items = {job.index: job.seconds for job in truth.jobs}
    loads = {load.id: load.seconds for load in truth.loads}

    def run(losses: Losses) -> Outcome:
        return simulate(work, hosts, losses, lambda job: items[job.index], lambda load: loads[load.id])

    undisturbed = run({}).makespan
    losses = {host: draw.uniform(0, undisturbed) for host in range(1, hosts) if draw.random() < loss}
    outcome = run(losses)
    assert all(outcome.done[job.index] for job in work.jobs)
    happened = {host: at for host, at in losses.items() if at < outcome.makespan}
    return outcome, outcome.makespan / bound(truth, hosts, happened), len(happened)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20, help="runs per line")
    parser.add_argument("--loss", type=float, default=0.25, help="probability that a host is lost")
    parser.add_argument("--load-rate", type=float, default=GPU.load / 1e9, help="GB/s from checkpoint to device")
    options = parser.parse_args()
    disturbance = Disturbance(model=0.4, item=0.25, load=0.4)
    work = full_suite(80, replace(GPU, load=options.load_rate * 1e9))
    print(f"{options.draws} draws a line; a host is lost with probability {options.loss:g}; {disturbance}")
    print(
        "hosts  GPUs  makespan  over the bound: none lost  lost, as forecast  lost, disturbed: mean (max)  hosts lost"
    )
    for hosts in (1, 2, 3, 4, 6, 8):
        calm, over, _ = compare(work, hosts, 0, 0.0, Disturbance())
        known = [compare(work, hosts, seed, options.loss, Disturbance()) for seed in range(options.draws)]
        runs = [compare(work, hosts, seed, options.loss, disturbance) for seed in range(options.draws)]
        told = [
            f"{statistics.mean(ratios):.2f} ({max(ratios):.2f})"
            for ratios in ([run[1] for run in known], [run[1] for run in runs])
        ]
        lost = statistics.mean(run[2] for run in runs)
        line = f"{hosts:5}  {GPUS * hosts:4}  {calm.makespan:6.0f} s  {over:25.3f}"
        print(f"{line}  {told[0]:>17}  {told[1]:>27}  {lost:10.1f}")


if __name__ == "__main__":
    main()
