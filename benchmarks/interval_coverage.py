"""How often the 95 % interval of a certificate holds the ratio of the whole text.

    python -m benchmarks.interval_coverage                                # the embedded model and its language
    python -m benchmarks.interval_coverage --model DIR --text FILE

The ratio of every clean edit over all windows of a long text is taken as the truth. Then windows are drawn from them
again and again, as many as a certificate has and as it draws them, and the interval is computed as a certificate's.
Windows are drawn without replacement, so draws that hold a large part of the text cover more often than the level
says: the share is printed.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.certificate_time import DEFAULTS
from pytest_proofpack.certificate.bca import bca_bounds
from pytest_proofpack.engine.baseline import load_baseline
from pytest_proofpack.engine.certify import edited_subject
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.models.forward import BatchSize, default_batch_size, window_losses
from pytest_proofpack.plan.records import Category
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.runs.run import Run, resolve_run

REPLICATES, ALPHA = 1200, 0.05
SUITE = """
schema = "proof_pack_suite_v1"
name = "coverage"
[[models]]
id = "benchmark/model"
path = "{model}"
[text]
provider = "synthetic"
documents = {documents}
"""


def run_of(folder: Path, model: Path, text: Path | None, documents: int) -> Run:
    """Return a run over one model and one text."""
    suite = folder / "coverage.toml"
    suite.write_text(SUITE.format(model=model.resolve(), documents=documents))
    source = None if text is None else str(text.resolve())
    return resolve_run(replace(DEFAULTS, suite=str(suite), text=source, out=str(folder / "run")))


def coverage(differences: NDArray[np.float64], windows: int, draws: int) -> tuple[int, float]:
    """Return how many intervals hold the mean of all differences, and their mean width in per cent of perplexity."""
    truth, weights = differences.mean(), np.ones(windows)
    held, widths = 0, []
    for draw in range(draws):
        chosen = np.random.default_rng(draw).permutation(len(differences))[:windows]
        low, high = bca_bounds(differences[chosen], weights, replicates=REPLICATES, alpha=ALPHA, seed=draw)
        held += low <= truth <= high
        widths.append(100 * (math.exp(high) - math.exp(low)))
    return held, float(np.mean(widths))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=suites_directory() / "tiny_model")
    parser.add_argument("--text", type=Path, help="text file; the embedded model's language else")
    parser.add_argument("--documents", type=int, default=12000, help="of the embedded language")
    parser.add_argument("--windows", type=int, default=200, help="final windows of a certificate")
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = run_of(Path(name), options.model, options.text, options.documents)
        prepared = prepare_model(run, run.suite.models[0])
        baseline = load_baseline(run, prepared)
        windows = prepared.text.windows
        batch = BatchSize(default_batch_size(windows.shape[1], baseline.device))
        before = window_losses(baseline.model, windows, batch_size=batch)
        share = options.windows / len(windows)
        print(f"{len(windows)} windows of {windows.shape[1]} tokens; draws hold {share:.0%} of them")
        for request in run.requests:
            if request.scenario.category is not Category.CLEAN or request.run != 1:
                continue
            with edited_subject(run, baseline, request) as subject:
                after = window_losses(subject.model, windows, batch_size=batch)
            held, width = coverage(after - before, options.windows, options.draws)
            ratio = math.exp((after - before).mean())
            print(
                f"{request.scenario.id:22} ratio {ratio:.4f}  held by {held} of {options.draws} intervals, "
                f"{held / options.draws:.1%}, {width:.2f} % wide",
                flush=True,
            )


if __name__ == "__main__":
    main()
