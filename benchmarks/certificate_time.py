"""Certificate time over the bare forward pass of the same windows, and where the rest goes.

    python -m benchmarks.certificate_time                       # the embedded model
    python -m benchmarks.certificate_time --suite subset --model DIR --text FILE

The bare pass is the plainest loop there is: ``model(ids).logits``, cross entropy, in the same batches, on the same
thread. Prints one row per scenario and the medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pytest_proofpack.config.settings import resolve
from pytest_proofpack.engine.baseline import Baseline, baseline_sample, load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.models.forward import default_batch_size
from pytest_proofpack.runs.run import Run, resolve_run


class NothingGiven:
    """A pytest configuration in which no option is set."""

    option = SimpleNamespace()

    def getini(self, _name: str) -> None:
        """Return nothing."""


DEFAULTS = replace(
    resolve(NothingGiven(), {}),
    suite="tiny",
    no_pack=True,
    runs={"calibration": 1, "clean": 1, "stress": 1, "error": 1},
    sign="off",
    no_html=True,
)


def bare_forward(baseline: Baseline) -> float:
    """Return the seconds of the plainest forward pass over the preview and final windows of run 1."""
    windows = baseline.prepared.text.draw(1)
    ids = torch.from_numpy(np.concatenate([windows.preview, windows.final])).to(baseline.device)
    batch = default_batch_size(ids.shape[1], baseline.device)
    start = time.perf_counter()
    with torch.inference_mode():
        for chunk in torch.split(ids, batch):
            logits = baseline.model(chunk, use_cache=False).logits[:, :-1].float()
            cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten(), reduction="none").cpu()
    return time.perf_counter() - start


def measure(run: Run, repetitions: int) -> None:
    """Print the table."""
    baseline = load_baseline(run, prepare_model(run, run.suite.models[0]))
    bare_forward(baseline)
    bare = statistics.median(bare_forward(baseline) for _ in range(repetitions))
    baseline_sample(run, baseline, 1)
    print(f"{baseline.spec.id}, {baseline.device.type}, {torch.get_num_threads()} thread: bare forward {bare:.3f} s\n")
    print(f"{'scenario':<22}{'total':>8}{'/ bare':>8}  phases")
    ratios = []
    for request in run.requests:
        times = []
        for _ in range(repetitions):
            start = time.perf_counter()
            with edited_subject(run, baseline, request) as subject:
                certificate = certify(run, subject)
            times.append(time.perf_counter() - start)
        total = statistics.median(times)
        ratios.append(total / bare)
        phases = "  ".join(f"{name} {seconds:.3f}" for name, seconds in certificate["volatile"]["seconds"].items())
        print(f"{request.scenario.id:<22}{total:>8.3f}{total / bare:>8.2f}  {phases}")
    print(f"\nmedian {statistics.median(ratios):.2f}, largest {max(ratios):.2f} times the bare forward pass")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--model", help="model directory; default: the suite's")
    parser.add_argument("--text", help="text file; default: the suite's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(
            DEFAULTS,
            suite=options.suite,
            model=(options.model,) if options.model else (),
            text=options.text,
            device=options.device,
            out=str(Path(folder) / "run"),
        )
        run = resolve_run(settings)
        measure(run, options.repetitions)


if __name__ == "__main__":
    main()
