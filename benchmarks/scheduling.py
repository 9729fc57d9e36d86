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
import math
import statistics
from dataclasses import replace

from benchmarks.simulation import SLOW, Cluster, Disturbance, Outcome, Work, disturbed, fitting, full_suite, simulate


def simple_bound(work: Work, devices: int) -> float:
    """Return a time before which no schedule ends, with one load per model. The formula is in the module's text."""
    seconds = work.seconds()
    bounds = [sum(load.devices * (load.seconds + seconds[load.id]) for load in work.loads) / devices]
    for least in range(1, devices + 1):
        chain = sum(load.seconds + seconds[load.id] for load in work.loads if load.devices >= least)
        bounds.append(chain / (devices // least))
    longest = {load.id: max(job.seconds for job in work.jobs if job.load == load.id) for load in work.loads}
    bounds += [load.seconds + longest[load.id] for load in work.loads]
    return max(bounds)


def bound_with_loads(work: Work, devices: int) -> float:
    """Return a time before which no schedule ends, with as many loads as ending then takes."""
    seconds = work.seconds()

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


def compare(work: Work, devices: int, disturbance: Disturbance, draws: int) -> list[tuple[Outcome, float, float]]:
    """Return runs of a plan, one per draw, each with its ratios to the simple bound and to the bound with loads."""
    found = []
    for seed in range(draws):
        truth = disturbed(work, disturbance, seed)
        outcome = simulate(work, Cluster(devices), truth)
        span = outcome.makespan
        found.append((outcome, span / simple_bound(truth, devices), span / bound_with_loads(truth, devices)))
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load-rate", type=float, default=SLOW.load / 1e9, help="GB/s from checkpoint to device")
    parser.add_argument("--draws", type=int, default=20, help="disturbed runs per line")
    options = parser.parse_args()
    speed = replace(SLOW, load=options.load_rate * 1e9)
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
