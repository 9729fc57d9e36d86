"""The suite `subset` of a 7B-shaped model on one GPU and on several: how much faster, and how busy the GPUs are.

    python -m benchmarks.scaling --gpus 1,2,4      # needs 15 GB of disk; a GPU that is not there is an error
    python -m benchmarks.scaling --gpus 1,2 --layers 16 --durations

One session each, with one worker per GPU, after one that is not timed: a fresh machine reads the libraries of torch and
CUDA from disk, which takes seconds. Weights are random, so verdicts mean nothing (all fail
``baseline_acceptable``); the speed does. Prints seconds by the wall clock and by pytest's, how many times faster than
with the first number of GPUs, when the model's first forward pass began and when each worker's had, when all GPUs had
been half busy, when the last certificate was there, the
busy share of each GPU by NVML, sampled four times a second from start to end; then the phases of
all certificates, added up. Modules are kept compiled: with PYTHONDONTWRITEBYTECODE in the environment every process may
compile torch and transformers anew, for seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pynvml

from benchmarks import first_pass
from benchmarks.large_model import build

CERTIFICATES = "*/certificates/**/evaluation.cert.json"
INTERVAL = 0.25
HALF_BUSY = 50
"""Per cent, as NVML tells it: of the time since its last sample in which a kernel ran."""


@dataclass
class Watch:
    """Samples how busy GPUs are, in a thread of its own, from start to stop."""

    gpus: int
    samples: list[tuple[float, list[int]]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _start: float = 0.0

    def __enter__(self) -> Watch:
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _sample(self) -> None:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(self.gpus)]
        while not self._stop.wait(INTERVAL):
            busy = [int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) for handle in handles]
            self.samples.append((time.perf_counter() - self._start, busy))

    @property
    def shares(self) -> list[float]:
        """Busy share of each GPU, in per cent, over all samples."""
        return [
            sum(busy[number] for _, busy in self.samples) / max(1, len(self.samples)) for number in range(self.gpus)
        ]

    def first(self, gpus: int) -> float:
        """Return when so many different GPUs had been half busy, in seconds; NaN if they never were."""
        seen: set[int] = set()
        for when, busy in self.samples:
            seen |= {number for number, share in enumerate(busy) if share >= HALF_BUSY}
            if len(seen) >= gpus:
                return when
        return float("nan")


@dataclass(frozen=True)
class Session:
    """What one session took, in seconds: by the wall clock, by pytest's, to the first pass of each worker, the earliest
    first, and to the last certificate; and what the GPUs did meanwhile."""

    wall: float
    clock: float
    passes: list[float]
    last: float
    watch: Watch


def run_session(folder: Path, gpus: int, name: str, *more: str) -> Session:
    """Certify the suite on so many GPUs."""
    out, passes = folder / f"run_{name}", folder / f"passes_{name}"
    passes.mkdir()
    suite = (f"--proofpack-suite={folder / 'large.toml'}", f"--proofpack-out={out}", "--proofpack-sign=off")
    usual = ("-q", "-p", "no:cacheprovider", "-p", "benchmarks.first_pass", f"-n{gpus}", "--durations=12")
    command = [sys.executable, "-m", "pytest", *suite, *usual, *more]
    paths = filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),  # for the plugin
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus))),
        first_pass.FOLDER: str(passes),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start, began = time.perf_counter(), time.time()
    with Watch(gpus) as watch:
        session = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    wall = time.perf_counter() - start
    clock = re.search(r" in ([0-9.]+)s", session.stdout)
    made = [path.stat().st_mtime - began for path in out.glob(CERTIFICATES)]
    if clock is None or not made:
        print(session.stdout[-3000:], session.stderr[-2000:])
        raise SystemExit(f"the session on {gpus} GPUs made no certificate")
    (folder / f"{name}.txt").write_text(session.stdout)
    begun = [when - began for when in first_pass.times(passes)]
    return Session(wall, float(clock[1]), begun, max(made), watch)


def phases(out: Path) -> str:
    """Return the seconds of every phase, added up over a run's certificates."""
    total: Counter[str] = Counter()
    for path in out.glob(CERTIFICATES):
        total.update(json.loads(path.read_text())["volatile"]["seconds"])
    return "  ".join(f"{phase} {seconds:.1f}" for phase, seconds in total.items())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", default="1,2,4,8", help="numbers of GPUs, separated by commas")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--durations", action="store_true", help="show each session's longest steps")
    options = parser.parse_args()
    numbers = [int(number) for number in options.gpus.split(",")]
    pynvml.nvmlInit()
    there = pynvml.nvmlDeviceGetCount()
    if max(numbers) > there:
        parser.error(f"{max(numbers)} GPUs are asked for, {there} are there")
    print(f"{pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))}, {there} of them, {options.layers} layers")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, options.layers)
        names = f"{'first pass':>12}{'of all':>9}{'all half busy':>15}{'last made':>12}  busy share of each"
        print(f"{'GPUs':>4}{'wall':>8}{'pytest':>8}{'times':>7}{names}")
        alone = None
        run_session(folder, max(numbers), "warm", "--proofpack-runs=calibration:1,clean:0,stress:0,error:0")
        for gpus in numbers:
            one = run_session(folder, gpus, f"{gpus}")
            if options.durations:
                said = (folder / f"{gpus}.txt").read_text()
                print(said[said.find("slowest") : said.find("short test summary")][:1600])
            alone = one.wall if alone is None else alone  # of the first number of GPUs
            busy = " ".join(f"{share:.0f} %" for share in one.watch.shares)
            begun = f"{one.passes[0]:>10.1f} s{one.passes[-1]:>7.1f} s{one.watch.first(gpus):>13.1f} s"
            times = f"{one.wall:>6.1f} s{one.clock:>6.1f} s{alone / one.wall:>7.2f}"
            print(f"{gpus:>4}{times}{begun}{one.last:>10.1f} s  {busy}", flush=True)
            print(f"     {phases(folder / f'run_{gpus}')}", flush=True)


if __name__ == "__main__":
    main()
