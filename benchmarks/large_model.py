"""Cost of certificates on a large model: a Mistral-shaped one with random weights, made on the spot.

    python -m benchmarks.large_model              # 7B-shaped; needs a GPU with 40 GB, and 15 GB of disk
    python -m benchmarks.large_model --layers 4     # for a trial

Its verdicts mean nothing, its speed does. Prints per scenario the time of a certificate over the bare forward pass of
the same windows, the share of the guards, and the arithmetic rate of the forward pass.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from benchmarks.certificate_time import DEFAULTS, bare_forward
from pytest_proofpack.baseline import baseline_draw, load_baseline, prepare_model
from pytest_proofpack.certify import certify, edited_subject
from pytest_proofpack.run import resolve_run
from pytest_proofpack.suites import suites_directory

GUARDS = ("structure", "spectral", "activations", "distribution", "overhead")
SCENARIOS = ("calibration", "quant_4bit_clean", "fp8_e5m2_clean", "prune_12pct_clean", "quant_4bit_stress",
             "scale_explosion", "norm_collapse", "missing_tensors")  # fmt: skip
SUITE = """
schema = "proof_pack_suite_v1"
name = "large"
[[models]]
id = "random/mistral"
path = "model"
[text]
provider = "synthetic"
documents = 12000
[runs]
calibration = 1
clean = 1
stress = 1
error = 1
"""


def build(folder: Path, layers: int) -> None:
    """Save a model of Mistral-7B's shape with random bfloat16 weights, the embedded tokenizer, and a suite."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = MistralForCausalLM(MistralConfig(num_hidden_layers=layers, bos_token_id=0, eos_token_id=0))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(suites_directory() / "tiny_model").save_pretrained(folder / "model")
    (folder / "large.toml").write_text(SUITE)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    layers = parser.parse_args().layers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, layers)
        settings = replace(DEFAULTS, suite=str(folder / "large.toml"), out=str(folder / "run"))
        run = resolve_run(settings)
        start = time.perf_counter()
        prepared = prepare_model(run, run.suite.models[0])
        baseline = load_baseline(run, prepared)
        print(f"prepare, load, digest and measure the baseline: {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        draw = baseline_draw(run, baseline, 1)
        print(f"baseline's losses, distributions and activations: {time.perf_counter() - start:.1f} s")
        parameters = sum(p.numel() for p in baseline.model.parameters())
        tokens = draw.windows.preview.size + draw.windows.final.size
        print(f"{parameters / 1e9:.2f} B parameters, {tokens} tokens in windows of {draw.windows.final.shape[1]}\n")
        bare_forward(baseline)
        bare = bare_forward(baseline)
        print(f"bare forward pass {bare:.2f} s, {2 * parameters * tokens / bare / 1e12:.0f} TFLOP/s")
        print(f"{'scenario':<20}{'total':>7}{'forward':>9}{'/ bare':>7}{'guards':>8}{'TFLOP/s':>9}  phases")
        shares = []
        for request in (request for request in run.requests if request.scenario.id in SCENARIOS):
            torch.cuda.synchronize() if torch.cuda.is_available() else None
            start = time.perf_counter()
            with edited_subject(run, baseline, request) as subject:
                seconds = certify(run, subject)["volatile"]["seconds"]
            total, forward = time.perf_counter() - start, seconds["forward"]
            # The comparison of distributions rides on the forward pass: what it adds to the bare one is its cost.
            share = (forward - bare + sum(seconds[guard] for guard in GUARDS)) / bare
            shares.append(share)
            rate = 2 * parameters * tokens / forward / 1e12
            phases = "  ".join(f"{phase} {value:.2f}" for phase, value in seconds.items())
            label = f"{request.scenario.id:<20}{total:>7.1f}{forward:>9.1f}{total / bare:>7.2f}"
            print(f"{label}{share:>8.1%}{rate:>9.0f}  {phases}", flush=True)
        print(f"\nguards: median {statistics.median(shares):.1%} of the bare forward pass")
        if torch.cuda.is_available():
            print(f"{torch.cuda.get_device_name()}, peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
