"""How long the suite `full` takes on 1 to 8 hosts of 8 GPUs, hosts lost on the way, in a simulation: no GPU, no model.

    python -m benchmarks.cluster_scheduling
    python -m benchmarks.cluster_scheduling --draws 50 --loss 0.5

The policy is the real one, the one of workers and of `--proofpack-ray`; durations are those of `benchmarks.scheduling`,
times random factors that the policy does not know. Every host but the first, which is the one that the session runs on,
is lost with a given probability, at a moment drawn evenly from the time that the run would take without losses, and
does not come back: what its processes were just making is made again by others.

**The bound** is the smallest T at which the device time of all certificates, and of as many loads as ending at T takes,
fits into what the hosts that are left give until T; and no less than one load and the longest certificate of any model.
It does not pay for what was lost, nor for loading again what a lost host had loaded: nobody who knows of a loss before
would begin there what does not end in time.

**The bound with losses** says what a loss costs whoever did not know of it. It takes the run as it stands at the moment
t after a loss - what is done, what runs on the hosts that are left and until when, what is loaded there - and is the
smallest T by which the rest can be done from there, whatever is decided from then on, even with knowledge of all that
comes. The largest of these over all losses of a run counts, and the bound above. For every load let

- S be the seconds of its items that have to be made from t on: those that are not begun, those that were lost with the
  host, and those that run on a host that is lost before they end;
- f the moment at which a group of devices that has it loaded ends what it runs (t, if it runs nothing). Until T, such a
  group gives at most T - f seconds, or what is left until its own host is lost.

A group that has it to load gives at most T - t - load. So at least (S - what the former give) / (T - t - load) more
groups, rounded up, have to load it; there has to be room for them; and the device time of S, of these loads, and of
what runs until it ends fits into what the hosts that are left give from t to T. Besides, no item ends before t + load +
its seconds, unless a group has its model loaded: then not before the first of those is free, + its seconds; and what
runs ends when it ends. Nothing in this asks which group takes what, so no way to go on does better, as long as it ends
what it has begun. What was done before the loss is taken for granted: whether that was well done, the column of runs
without losses tells, and the first bound.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks.simulation import SLOW, AfterLoss, Cluster, Disturbance, Outcome, Work, disturbed, full_suite, simulate
from pytest_proofpack.scheduling.costs import Load

GPUS = 8
"""Of a host."""
_GOAL = 1.15
_PRECISION = 1e-3
"""Of a bound: as a share of it."""
_NOTHING = 1e-9
"""Seconds that are an error of rounding."""


def bound(work: Work, cluster: Cluster) -> float:
    """Return a time before which no schedule ends; the formula is in the module's text."""
    seconds = work.seconds()
    longest = max(load.seconds + max(job.seconds for job in work.jobs if job.load == load.id) for load in work.loads)

    def fits(end: float) -> bool:
        total = 0.0
        for load in work.loads:
            groups = math.ceil(seconds[load.id] / (end - load.seconds) - 1e-9)
            if groups > cluster.hosts * (cluster.devices // load.devices):
                return False
            total += load.devices * (seconds[load.id] + groups * load.seconds)
        return total <= _capacity(cluster, range(cluster.hosts), 0.0, end)

    return _smallest(fits, longest)


class _Need(NamedTuple):
    """What has to be made with one load from some moment on.

    Attributes:
        load: the load.
        seconds: of all the items.
        longest: seconds of the longest one; 0 if there is none.
        holders: when each group that has it loaded is free, and when its host is lost.
    """

    load: Load
    seconds: float
    longest: float
    holders: list[tuple[float, float]]

    def soonest(self, at: float) -> float:
        """Return a time before which its longest item, and what runs at the moment ``at``, does not end."""
        free = [free for free, _ in self.holders]
        begins = min([at + self.load.seconds, *free])
        return max([begins + self.longest if self.longest else at, *free])

    def more_groups(self, at: float, end: float) -> float:
        """Return how many groups have to load it from the time ``at`` on for all to be made by the time ``end``."""
        missing = self.seconds - sum(max(0.0, min(end, until) - free) for free, until in self.holders)
        if missing <= _NOTHING:
            return 0
        useful = end - at - self.load.seconds
        return math.ceil(missing / useful - _NOTHING) if useful > 0 else math.inf


def bound_with_losses(work: Work, cluster: Cluster, outcome: Outcome) -> float:
    """Return a time before which a run does not end whatever is decided after its losses; see the module's text.

    Args:
        work: the plan, with what everything takes in fact.
        cluster: the hosts, with their losses.
        outcome: the run.
    """
    return max([bound(work, cluster), *(_bound_from(work, cluster, state) for state in outcome.losses)])


def _bound_from(work: Work, cluster: Cluster, state: AfterLoss) -> float:
    """Return a time before which a run does not end that stands like this."""
    at, needs = state.at, _needs(work, cluster, state)

    def fits(end: float) -> bool:
        total = 0.0
        for need in needs:
            load, groups = need.load, need.more_groups(at, end)
            if groups > len(state.hosts) * (cluster.devices // load.devices):
                return False
            running = sum(free - at for free, _ in need.holders)
            total += load.devices * (running + need.seconds + groups * load.seconds)
        return total <= _capacity(cluster, state.hosts, at, end)

    return _smallest(fits, max(need.soonest(at) for need in needs))


def _needs(work: Work, cluster: Cluster, state: AfterLoss) -> list[_Need]:
    """Return what has to be made with each load from a loss on."""
    items, holders = defaultdict[str, list[float]](list), defaultdict[str, list[tuple[float, float]]](list)
    for job in state.left:
        items[job.load].append(job.seconds)
    for holder in state.holders:
        until = cluster.losses.get(holder.host, math.inf)
        if holder.free <= until:
            holders[holder.load].append((holder.free, until))
        elif holder.running is not None:
            items[holder.load].append(holder.running.seconds)
    return [_Need(load, sum(items[load.id]), max(items[load.id], default=0.0), holders[load.id]) for load in work.loads]


def _capacity(cluster: Cluster, hosts: Iterable[int], begin: float, end: float) -> float:
    """Return the device time that hosts give from a moment to another one."""
    return sum(cluster.devices * (max(begin, min(end, cluster.losses.get(host, end))) - begin) for host in hosts)


def _smallest(fits: Callable[[float], bool], least: float) -> float:
    """Return the smallest time, at least ``least``, at which something fits that then goes on fitting."""
    low, high = least, max(least, 1.0)
    if fits(low):
        return low
    while not fits(high):
        high *= 2
    while high - low > _PRECISION * low:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return low


class Comparison(NamedTuple):
    """A run and its bounds.

    Attributes:
        outcome: the run.
        over: its time over the bound.
        over_with_losses: its time over the bound with losses.
    """

    outcome: Outcome
    over: float
    over_with_losses: float


def compare(work: Work, hosts: int, seed: int, loss: float, disturbance: Disturbance) -> Comparison:
    """Return a run and its time over the bounds.

    Args:
        work: the plan.
        hosts: how many there are at the begin.
        seed: of what is drawn.
        loss: with which probability each host but the first is lost.
        disturbance: how far durations are from the guesses.
    """
    truth, draw, whole = disturbed(work, disturbance, seed), random.Random(seed), Cluster(GPUS, hosts)
    undisturbed = simulate(work, whole, truth)
    losses = {host: draw.uniform(0, undisturbed.makespan) for host in range(1, hosts) if draw.random() < loss}
    outcome = simulate(work, whole._replace(losses=losses), truth) if losses else undisturbed
    assert all(outcome.done[job.index] for job in work.jobs)
    happened = whole._replace(losses={host: at for host, at in losses.items() if at < outcome.makespan})
    simple, with_losses = bound(truth, happened), bound_with_losses(truth, happened, outcome)
    return Comparison(outcome, outcome.makespan / simple, outcome.makespan / with_losses)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20, help="runs per line")
    parser.add_argument("--loss", type=float, default=0.25, help="probability that a host is lost")
    parser.add_argument("--load-rate", type=float, default=SLOW.load / 1e9, help="GB/s from checkpoint to device")
    options = parser.parse_args()
    disturbance = Disturbance(model=0.4, item=0.25, load=0.4)
    work = full_suite(80, replace(SLOW, load=options.load_rate * 1e9))
    print(f"{options.draws} draws a line; a host is lost with probability {options.loss:g}; {disturbance}")
    print(f"over the bound: mean (max) and share of at most {_GOAL:g}; over the bound with losses: mean (max)")
    print(
        "hosts  GPUs  makespan   none lost  "
        "lost, as forecast                    lost, disturbed                        hosts lost"
    )
    for hosts in (1, 2, 3, 4, 6, 8):
        calm = compare(work, hosts, 0, 0.0, Disturbance())
        line = f"{hosts:5}  {GPUS * hosts:4}  {calm.outcome.makespan:6.0f} s  {calm.over:10.3f}"
        for what in (Disturbance(), disturbance):
            runs = [compare(work, hosts, seed, options.loss, what) for seed in range(options.draws)]
            within = sum(run.over <= _GOAL for run in runs) / len(runs)
            line += (
                f"  {_told([run.over for run in runs])} {within:5.0%}  {_told([run.over_with_losses for run in runs])}"
            )
            lost = statistics.mean(len(run.outcome.losses) for run in runs)
        print(f"{line}  {lost:12.1f}", flush=True)


def _told(ratios: Sequence[float]) -> str:
    return f"{statistics.mean(ratios):5.2f} ({max(ratios):.2f})"


if __name__ == "__main__":
    main()
