"""A model over several GPUs beside the same one on a single GPU: how fast it is, and whether anything differs.

    python -m benchmarks.two_devices                 # passes: 7B-shaped (40 GB), layers of 72B (64 GB), small shapes
    python -m benchmarks.two_devices --shapes llama  # one of them
    python -m benchmarks.two_devices --shapes wide --layers 80 --lanes 3  # 72B whole; one GPU does not hold it
    python -m benchmarks.two_devices --devices 4
    python -m benchmarks.two_devices --outcomes      # every scenario of the embedded suite, three small shapes

Weights are random, so verdicts mean nothing; that they are the same on one GPU and on two does. Forward passes: those
of a certificate, over preview and final windows of 512 tokens, with next-token distributions watched on the latter;
their seconds, tokens per second, the share of k times one GPU's rate, and on each GPU the peak memory of tensors and of
what was reserved for them. They are printed for one GPU, for k on one stream each (where batches take turns), and for k
with lanes (models/pipeline.py), by the number of lanes, the layers placed as when a checkpoint is loaded. Exits with 1
if a loss differs in a bit from that of one GPU, or with --outcomes an outcome.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import dispatch_model, infer_auto_device_map, init_empty_weights
from accelerate.utils import get_balanced_memory, set_module_tensor_to_device
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.certificate_time import DEFAULTS
from benchmarks.divided_model import DEVIATION
from benchmarks.divided_model import SHAPES as DIVIDED
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.devices.inventory import visible_devices
from pytest_proofpack.devices.placement import Placement, show_devices
from pytest_proofpack.engine.baseline import load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.passes import sample_losses
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.measures.distribution import BaselineDistribution, SubjectDistribution, model_cache_plan
from pytest_proofpack.models.forward import BatchSize, default_batch_size
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.runs.run import resolve_run
from pytest_proofpack.text.windows import SampledWindows

WINDOWS, SEQ_LEN, REPETITIONS = 200, 512, 2
CALIBRATION = 4
"""Windows in a batch of their own, see engine/passes.py."""
MIXED: Mapping[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16,
    "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "7b": ("LlamaConfig", {"intermediate_size": 14336, "num_key_value_heads": 8}),
    "wide": ("Qwen2Config", {**DIVIDED["72b"][2], "num_hidden_layers": 34, "tie_word_embeddings": False}),
    "llama": ("LlamaConfig", MIXED),
    "gpt2": ("GPT2Config", {"n_embd": 1024, "n_layer": 12, "n_head": 16}),
    "mixtral": ("MixtralConfig", {**MIXED, "num_local_experts": 8}),
}
SMALL: Mapping[str, Any] = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": False, "max_position_embeddings": 512,
}  # fmt: skip
CERTIFIED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", SMALL),
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 6, "n_head": 4, "n_positions": 512}),
    "mixtral": ("MixtralConfig", {**SMALL, "num_local_experts": 4}),
}


def build(kind: str, values: Mapping[str, Any], dtype: torch.dtype, **more: int) -> PreTrainedModel:
    """Return a model in evaluation mode, whose weights are nowhere yet."""
    config = getattr(transformers, kind)(**{**values, **more})
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.train(mode=False)
    return model.requires_grad_(requires_grad=False)


def fill(model: PreTrainedModel, places: Mapping[str, str]) -> PreTrainedModel:
    """Give a model random weights, the same ones wherever its modules are placed, and place it there."""
    for seed, (name, parameter) in enumerate(list(model.named_parameters())):
        place = next(place for module, place in places.items() if not module or f"{name}.".startswith(f"{module}."))
        generator = torch.Generator(place).manual_seed(seed)
        given: dict[str, Any] = {"device": place, "dtype": parameter.dtype}
        values = torch.ones(parameter.shape, **given)
        if parameter.dim() > 1:
            values.normal_(0, DEVIATION, generator=generator)
        set_module_tensor_to_device(model, name, place, value=values)
    model.tie_weights()
    dispatch_model(model, dict(places))
    return model


def divided(model: PreTrainedModel, devices: int) -> dict[str, str]:
    """Return where transformers places a model that is loaded on the first GPUs."""
    never_divided = set(model._no_split_modules or ())
    free = {number: torch.cuda.mem_get_info(number)[0] * 9 // 10 for number in range(devices)}
    limits = get_balanced_memory(model, max_memory=free, no_split_module_classes=never_divided)
    places = infer_auto_device_map(model, limits, no_split_module_classes=never_divided)
    return {name: f"cuda:{number}" for name, number in places.items()}


@dataclass(frozen=True)
class Timing:
    """The fastest of some passes: its seconds, and per GPU the peak of tensors and of reserved memory in bytes."""

    seconds: float
    losses: NDArray[np.float64]
    peaks: tuple[tuple[int, int], ...]


def timed(model: PreTrainedModel, windows: SampledWindows, devices: int, lanes: int) -> Timing:
    """Time a certificate's forward passes: the baseline's once, which is not counted, then those of a subject."""
    recorder = BaselineDistribution(model_cache_plan(model, windows.final))
    batch = BatchSize(default_batch_size(SEQ_LEN, "cuda"), lanes=lanes)
    sample_losses(model, windows, batch, CALIBRATION, observer=recorder)
    cache, seconds = recorder.cache(), []
    torch.cuda.empty_cache()
    for number in range(devices):
        torch.cuda.reset_peak_memory_stats(number)
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        observer = SubjectDistribution(cache)
        losses = sample_losses(model, windows, batch, CALIBRATION, observer=observer)
        observer.facts()
        seconds.append(time.perf_counter() - start)
    peaks = [(torch.cuda.max_memory_allocated(own), torch.cuda.max_memory_reserved(own)) for own in range(devices)]
    return Timing(min(seconds), np.array(losses.preview.losses + losses.final.losses), tuple(peaks))


def compare_rates(shape: str, options: argparse.Namespace) -> bool:
    """Print one table; return whether all losses are those of one GPU, bit for bit."""
    kind, values = SHAPES[shape]
    devices, count = options.devices, options.windows
    more = {} if options.layers is None else {"num_hidden_layers": options.layers}
    model = build(kind, values, torch.bfloat16, **more)
    size = sum(own.numel() for own in model.parameters())
    tokens = np.random.default_rng(0).integers(model.config.vocab_size, size=(count, SEQ_LEN))
    ids, half = tuple(map(str, range(count))), count // 2
    windows = SampledWindows(tokens[:half], tokens[half:], ids[:half], ids[half:], seed=0)
    places = divided(model, devices)
    on_each = Counter(place for name, place in places.items() if ".layers." in name or ".h." in name)
    print(
        f"\n{shape}: {size / 1e9:.2f} B parameters, {count} windows of {SEQ_LEN} tokens, "
        f"{default_batch_size(SEQ_LEN, 'cuda')} per batch; layers on each GPU: {' '.join(map(str, on_each.values()))}"
    )
    print(f"{'':<28}{'seconds':>8}{'tokens/s':>10}{'of k x one':>11}{'same bits':>10}  GiB per GPU, tensors / reserved")
    alone = None
    if 2 * size < torch.cuda.mem_get_info(0)[0] * 9 // 10:
        alone = timed(fill(model, {"": "cuda:0"}), windows, 1, 1)
        print_row("one GPU", alone, alone, 1)
        model = build(kind, values, torch.bfloat16, **more)
    torch.cuda.empty_cache()
    fill(model, places)
    same = True
    for lanes in options.lanes or (1, devices, devices + 1, devices + 2):
        timing = timed(model, windows, devices, lanes)
        print_row(f"{devices} GPUs, {'by turns' if lanes == 1 else f'{lanes} lanes'}", timing, alone, devices)
        same &= alone is None or bool((timing.losses == alone.losses).all())
    return same


def print_row(label: str, timing: Timing, alone: Timing | None, devices: int) -> None:
    """Print one line of a table; of a model that one GPU does not hold there is nothing to compare with."""
    share, same = "", ""
    if alone is not None:
        share = f"{alone.seconds / timing.seconds / devices:.0%}"
        same = "yes" if (timing.losses == alone.losses).all() else "NO"
    memory = "  ".join(f"{tensors / 2**30:.1f} / {reserved / 2**30:.1f}" for tensors, reserved in timing.peaks)
    rate = len(timing.losses) * SEQ_LEN / timing.seconds
    print(f"{label:<28}{timing.seconds:>8.3f}{rate:>10.0f}{share:>11}{same:>10}  {memory}", flush=True)


def certificates(shape: str, folder: Path) -> Iterator[tuple[str, JsonObject, JsonObject]]:
    """Yield scenarios and their outcomes on one GPU and on two."""
    directory = folder / shape
    size = 1024  # the embedded tokenizer's
    model = build(*CERTIFIED[shape], torch.float32, vocab_size=size, bos_token_id=0, eos_token_id=0)
    fill(model, {"": "cpu"}).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(suites_directory() / "tiny_model" / name, directory / name)
    settings = replace(DEFAULTS, suite="tiny", model=(str(directory),), out=str(folder / "run"), device="cuda")
    run = resolve_run(settings)
    share = sum(own.nbytes for own in model.parameters()) * 13 // 20
    made = []
    for spread in ({}, {0: share, 1: share}):
        baseline = load_baseline(run, prepare_model(run, run.suite.models[0]), Placement("cuda:0", spread, 8))
        found = {own.device for own in baseline.model.parameters()}
        if len(found) != max(1, len(spread)):
            sys.exit(f"{shape}: lies on {sorted(map(str, found))}, so there is nothing to compare.")
        outcomes: dict[str, JsonObject] = {}
        for request in {request.scenario.id: request for request in run.requests}.values():
            with edited_subject(run, baseline, request) as subject:
                outcomes[request.scenario.id] = certify(run, subject)["outcome"]
        made.append(outcomes)
    yield from ((scenario, alone, made[1][scenario]) for scenario, alone in made[0].items())


def compare_outcomes() -> bool:
    """Print outcomes side by side; return whether they are the same."""
    same = True
    for shape in CERTIFIED:
        print(f"\n{shape:<24}{'one GPU':<40}two GPUs")
        with tempfile.TemporaryDirectory() as folder:
            for scenario, alone, both in certificates(shape, Path(folder)):
                same &= alone == both
                print(
                    f"{scenario:<24}{in_short(alone):<40}{in_short(both) if alone == both else f'{both} NOT THE SAME'}"
                )
    return same


def in_short(outcome: JsonObject) -> str:
    """Return an outcome in a few words."""
    verdict = "PASS" if outcome["passed"] else "FAIL"
    return f"{verdict} {' '.join(map(str, outcome.get('failed_gates', [])))}"[:38]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma-separated, of: %(default)s")
    parser.add_argument("--layers", type=int, help="another number of layers than the shapes'")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="default: %(default)s")
    parser.add_argument("--lanes", type=int, nargs="*", help="how many batches in flight; several numbers by default")
    parser.add_argument("--outcomes", action="store_true", help="certify instead")
    options = parser.parse_args()
    show_devices(visible_devices("auto", os.environ))  # as in a session
    if torch.cuda.device_count() < max(2, options.devices):
        sys.exit(f"needs {max(2, options.devices)} GPUs; torch sees {torch.cuda.device_count()}")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.cuda.get_device_name(0)}")
    if options.outcomes:
        sys.exit(0 if compare_outcomes() else 1)
    rates = [compare_rates(shape, options) for shape in options.shapes.split(",")]
    sys.exit(0 if all(rates) else 1)


if __name__ == "__main__":
    main()
