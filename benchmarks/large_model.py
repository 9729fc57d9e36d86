"""Cost of certificates on a large model: a Mistral-shaped one with random weights, made on the spot.

    python -m benchmarks.large_model              # 7B-shaped; needs a GPU with 40 GB, and 15 GB of disk
    python -m benchmarks.large_model --layers 16  # for a trial (a scenario edits layer 15)
    python -m benchmarks.large_model --plan       # afterwards the whole subset plan, in a pytest session of its own

Its verdicts mean nothing: a model that guesses passes nowhere, every certificate fails ``baseline_acceptable``. Its
speed does. Prints the rate of a matrix product and of the file system; what loading takes; per scenario the time of a
certificate over the bare forward pass of the same windows, its phases, the share of the guards, tokens per second and
arithmetic rate of the forward pass, the latter as a share of the product's too (MFU), and peak memory; of the plan the
whole time, what of it is forward passes, and what was written to disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from benchmarks.certificate_time import DEFAULTS, bare_forward
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.strict_json import compact_json
from pytest_proofpack.devices.inventory import visible_devices
from pytest_proofpack.devices.model_shapes import plan_model
from pytest_proofpack.engine.baseline import Baseline, baseline_sample, load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.runs.run import Run, resolve_run

GUARDS = ("structure", "spectral", "activations", "variance", "distribution", "overhead")
SUITE = """
schema = "proof_pack_suite_v1"
name = "large"
[[models]]
id = "mistralai/Mistral-7B-v0.1"
path = "model"
[text]
provider = "synthetic"
documents = 12000
[runs]
calibration = 5
clean = 3
stress = 2
error = 1
"""


def build(folder: Path, layers: int) -> None:
    """Save a model of Mistral-7B's shape with random bfloat16 weights, the embedded tokenizer, and a suite."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = MistralForCausalLM(MistralConfig(num_hidden_layers=layers, bos_token_id=0, eos_token_id=0))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "model", max_shard_size="5GB")  # as it is on the hub
    AutoTokenizer.from_pretrained(suites_directory() / "tiny_model").save_pretrained(folder / "model")
    (folder / "large.toml").write_text(SUITE)


def product_rate() -> float:
    """Return the arithmetic rate of a large bfloat16 product, in TFLOP/s."""
    device, size, count = ("cuda", 8192, 50) if torch.cuda.is_available() else ("cpu", 2048, 5)
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(count // 5):
        left @ right
    synchronize()
    start = time.perf_counter()
    for _ in range(count):
        left @ right
    synchronize()
    return count * 2 * size**3 / (time.perf_counter() - start) / 1e12


def read_rate(folder: Path) -> float:
    """Return the rate at which the weights can be read from the page cache or disk, in GB/s."""
    buffer = bytearray(1 << 26)
    total, start = 0, time.perf_counter()
    for path in (folder / "model").glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total / (time.perf_counter() - start) / 1e9


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Return the most bytes of tensors since the last reset; without a GPU, of the process since its start."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def load(run: Run, folder: Path) -> Baseline:
    """Load the baseline and print what that took."""
    rate = read_rate(folder)
    start = time.perf_counter()
    prepared = prepare_model(run, run.suite.models[0])
    print(f"prepare (checks, text, tokens): {time.perf_counter() - start:.1f} s")
    baseline = load_baseline(run, prepared)
    size = sum(parameter.nbytes for parameter in baseline.model.parameters()) / 1e9
    phases = "  ".join(f"{phase} {value:.2f}" for phase, value in baseline.seconds.items())
    loading = size / baseline.seconds["load"]
    print(f"load_baseline: {phases}; weights {size:.1f} GB at {loading:.1f} GB/s, read at {rate:.1f} GB/s")
    start = time.perf_counter()
    baseline_sample(run, baseline, 1)
    print(f"baseline's losses, distributions and activations: {time.perf_counter() - start:.1f} s")
    return baseline


def first_of_each(run: Run) -> Iterator[CertificateRequest]:
    """Yield one request per scenario."""
    seen = set()
    for request in run.requests:
        if request.scenario.id not in seen:
            seen.add(request.scenario.id)
            yield request


def warm_up(run: Run, baseline: Baseline) -> None:
    """Make one certificate and one bare pass that are not timed: modules are imported, memory is taken once."""
    request = next(request for request in run.requests if request.edit_name == "quant_rtn")
    with edited_subject(run, baseline, request) as subject:
        certify(run, subject)
    bare_forward(baseline)


def timed_certificate(run: Run, baseline: Baseline, request: CertificateRequest, folder: Path) -> dict[str, float]:
    """Make a certificate; return the seconds of its phases and of all (``total``)."""
    synchronize()
    start = time.perf_counter()
    with edited_subject(run, baseline, request) as subject:
        certificate = certify(run, subject)
        synchronize()
        made = time.perf_counter()
    synchronize()
    restored = time.perf_counter()
    atomic_write(folder / "evaluation.cert.json", compact_json(certificate))
    written = time.perf_counter()
    times = {"restore": restored - made, "write": written - restored, "total": written - start}
    return {**certificate["volatile"]["seconds"], **times}


def measure(run: Run, baseline: Baseline, product: float, folder: Path) -> None:
    """Print one row per scenario."""
    windows = baseline_sample(run, baseline, 1).windows
    parameters = sum(p.numel() for p in baseline.model.parameters())
    tokens = windows.preview.size + windows.final.size
    work = 2 * parameters * tokens / 1e12
    print(f"{parameters / 1e9:.2f} B parameters, {tokens} tokens in windows of {windows.final.shape[1]}\n")
    warm_up(run, baseline)
    bare = bare_forward(baseline)
    print(f"bare forward pass {bare:.2f} s, {work / bare:.4g} TFLOP/s; a bfloat16 product {product:.4g} TFLOP/s")
    print("every certificate is compared with a bare pass right after it")
    ratios = f"{'total':>7}{'/ bare':>7}{'/ forward':>10}{'guards':>8}"
    print(f"{'scenario':<21}{ratios}{'tokens/s':>9}{'TFLOP/s':>8}{'MFU':>5}{'GiB':>6}  phases")
    shares, highest = [], 0.0
    for request in first_of_each(run):
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        seconds = timed_certificate(run, baseline, request, folder)
        total, forward = seconds.pop("total"), seconds["forward"]
        bare = bare_forward(baseline)
        # Activations and distributions are watched during the forward pass: what it takes beyond the bare one is
        # theirs.
        share = (forward - bare + sum(seconds[guard] for guard in GUARDS)) / bare
        shares.append(share)
        phases = "  ".join(f"{phase} {value:.2f}" for phase, value in seconds.items())
        peak = peak_memory() / 2**30
        highest = max(highest, peak)
        ratios = f"{total:>7.2f}{total / bare:>7.2f}{total / forward:>10.2f}{share:>8.1%}"
        speed = f"{tokens / forward:>9.0f}{work / forward:>8.4g}{work / forward / product:>5.0%}"
        print(f"{request.scenario.id:<21}{ratios}{speed}{peak:>6.1f}  {phases}", flush=True)
    print(f"\nguards: median {statistics.median(shares):.1%} of the bare forward pass")
    if torch.cuda.is_available():
        devices = visible_devices("auto", os.environ)
        planned = plan_model(baseline.spec, baseline.prepared.plan, devices).allocated_bytes / 2**30
        print(f"peak memory of tensors {highest:.1f} GiB, planned {planned:.1f} GiB ({planned / highest - 1:+.0%})")


def run_plan(folder: Path) -> None:
    """Run the whole plan in a pytest session and print where its time went."""
    out = folder / "plan"
    command = [sys.executable, "-m", "pytest", f"--proofpack-suite={folder / 'large.toml'}", f"--proofpack-out={out}",
               "--proofpack-sign=off", "-q", "-p", "no:cacheprovider", "--durations=5"]  # fmt: skip
    start = time.perf_counter()
    session = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    wall = time.perf_counter() - start
    print(session.stdout[-3000:], session.stderr[-1000:])
    phases: Counter[str] = Counter()
    certificates = list(out.glob("*/certificates/**/evaluation.cert.json"))
    for path in certificates:
        phases.update(json.loads(path.read_text())["volatile"]["seconds"])
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    print(f"plan: {len(certificates)} certificates, {wall:.0f} s with start and load; {written:.0f} MB written")
    print("sum of phases: " + "  ".join(f"{phase} {value:.1f}" for phase, value in phases.items()))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--plan", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, options.layers)
        settings = replace(DEFAULTS, suite=str(folder / "large.toml"), out=str(folder / "run"), runs={})
        run = resolve_run(settings)
        baseline = load(run, folder)
        measure(run, baseline, product_rate(), folder)
        if torch.cuda.is_available():
            print(torch.cuda.get_device_name())
        del baseline
        if options.plan:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            run_plan(folder)


if __name__ == "__main__":
    main()
