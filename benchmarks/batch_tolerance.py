"""How far a certificate's numbers depend on the batch size: the embedded model, in float32 and bfloat16.

    python -m benchmarks.batch_tolerance --device=cuda

Every scenario is certified with the usual batch, and with others. Printed are the largest relative differences of the
ratio, the interval's ends, the mean KL and the edges of activations over the scenarios that leave a finite model, and
whether any outcome (gates, warnings, signals) was another one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import torch

from benchmarks.certificate_time import DEFAULTS
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine import baseline as baseline_module
from pytest_proofpack.engine.baseline import Baseline, load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.models.forward import BatchSize, default_batch_size
from pytest_proofpack.models.load import LoadedModel, load_model
from pytest_proofpack.plan.records import CertificateRequest, ModelSpec
from pytest_proofpack.runs.run import Run, resolve_run

SIZES = (1, 3, 5, 16, 64)
DTYPES = ("float32", "bfloat16")


def load(run: Run, dtype: torch.dtype) -> Baseline:
    """Load the suite's model in a type that its checkpoint has not."""

    def load_as(spec: ModelSpec, device: str, **_options: object) -> LoadedModel:
        return load_model(spec, device, dtype)

    with mock.patch.object(baseline_module, "load_model", load_as):
        return load_baseline(run, prepare_model(run, run.suite.models[0]))


def numbers(certificate: JsonObject) -> Iterator[float]:
    """Yield what is compared."""
    metric = certificate["primary_metric"]
    yield metric.get("ratio_vs_baseline", math.nan)
    yield from metric.get("display_ci", (math.nan, math.nan))
    yield certificate["distribution"]["kl_mean"]
    yield from (group["edge_cur"] for group in certificate["rmt"]["families"].values())


def certificates(run: Run, baseline: Baseline, requests: list[CertificateRequest], size: int) -> list[JsonObject]:
    """Certify every request with one batch size, the baseline's part too."""
    own = replace(baseline, batch=BatchSize(size), draws={})
    made = []
    for request in requests:
        with edited_subject(run, own, request) as subject:
            made.append(certify(run, subject))
    return made


def difference(first: float, second: float) -> float:
    """Return the relative difference; 0 for what is no number in both."""
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    return abs(first - second) / max(abs(second), 1e-6)


def compare(run: Run, dtype: str) -> None:
    """Print one line per batch size."""
    requests = list({request.scenario.id: request for request in run.requests if request.run == 1}.values())
    baseline = load(run, getattr(torch, dtype))
    usual = default_batch_size(baseline.prepared.plan.seq_len, baseline.device)
    expected = certificates(run, baseline, requests, usual)
    for size in SIZES:
        largest, others = [0.0] * 4, 0
        for one, two in zip(certificates(run, baseline, requests, size), expected, strict=True):
            others += one["outcome"] != two["outcome"]
            if two["outcome"]["passed"]:
                ratio, low, high, divergence, *edges = map(difference, numbers(one), numbers(two))
                largest = list(map(max, largest, (ratio, max(low, high), divergence, max(edges))))
        shown = "  ".join(
            f"{name} {value:.1e}" for name, value in zip(("ratio", "CI", "KL", "edges"), largest, strict=True)
        )
        print(
            f"{baseline.device.type} {dtype} {size:>3} instead of {usual}: {shown}; other outcomes: {others}",
            flush=True,
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    run = resolve_run(replace(DEFAULTS, suite="tiny", out="unused", device=options.device))
    for dtype in DTYPES:
        compare(run, dtype)


if __name__ == "__main__":
    main()
