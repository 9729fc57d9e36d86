"""Checkpoints that GPTQModel and AutoRound pack, and the ratio of each as these tools run it: docs/formats.md.

The tools want an environment of their own: GPTQModel changes safetensors and transformers when it is imported.

    python -m benchmarks.packed_by_tools text FOLDER         # where pytest-proofpack is: baseline, text, windows
    python benchmarks/packed_by_tools.py make FOLDER         # where gptqmodel, optimum and auto-round are
    python benchmarks/packed_by_tools.py ratios FOLDER       # likewise: prints every product's ratio as it is run
    python benchmarks/packed_by_tools.py modules FOLDER      # likewise: tests/support/packed_by_tools.safetensors
    pytest --proofpack-baseline=FOLDER/base --proofpack-subject=FOLDER/products --proofpack-text=FOLDER/text.txt

A ratio is that of perplexities on the certificate's 200 final windows, the model loaded by plain transformers, which
asks the tool to unpack and run it. On two cores GPTQModel wants GPTQMODEL_CPU_WORKERS=2, and with TORCHDYNAMO_DISABLE=1
it compiles nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

BATCH = 16
MODULE, OUTPUTS = "model.layers.0.self_attn.k_proj", 32
CONFIG_KEPT = (
    "quant_method", "bits", "group_size", "sym", "desc_act", "checkpoint_format", "version", "zero_point",
    "packing_format",
)  # fmt: skip
GROUP = 32
AUTO_ROUND: Mapping[str, tuple[int, bool, str]] = {
    "round-gptq-4": (4, True, "auto_gptq"),
    "round-gptq-4-asym": (4, False, "auto_gptq"),
    "round-awq-4-asym": (4, False, "auto_awq"),
    "round-8": (8, True, "auto_round"),
    "round-4-asym": (4, False, "auto_round"),
    "round-3": (3, True, "auto_round"),
    "round-2-asym": (2, False, "auto_round"),
}
"""By name of a product, bits, whether it is symmetric, and the form that AutoRound exports."""
GPTQ_MODEL: Mapping[str, dict[str, Any]] = {
    "gptq-4": {"bits": 4},
    "gptq-4-asym-order": {"bits": 4, "sym": False, "desc_act": True},
    "gptq-4-v2-asym": {"bits": 4, "sym": False, "format": "gptq_v2"},
    "gptq-3": {"bits": 3},
    "gptq-2": {"bits": 2},
    "gptq-8-rows": {"bits": 8, "group_size": -1, "act_group_aware": False},
    "gptq-5-planes": {"bits": 5},
    "awq-4": {"bits": 4, "method": "awq", "format": "gemm", "sym": False},
}
"""By name of a product, what GPTQModel's configuration is given besides groups of 32."""


def make_text(folder: Path) -> None:
    """Write the baseline, a text of its language, and the windows that certificates on it are of."""
    from dataclasses import replace

    from benchmarks.certificate_time import DEFAULTS
    from pytest_proofpack.engine.workbench import Workbench
    from pytest_proofpack.runs.run import resolve_run
    from pytest_proofpack.text.synthetic import generate
    from tests.support.quantized_checkpoints import blockwise_base

    blockwise_base(folder / "base")
    (folder / "text.txt").write_text("\n\n".join(document.text for document in generate(1, 1200)))
    given = replace(DEFAULTS, suite=None, baseline=str(folder / "base"), subject=(str(folder / "base"),), runs={})
    run = resolve_run(replace(given, text=str(folder / "text.txt"), out=str(folder / "run")))
    prepared = Workbench(run).inputs.prepare(run.requests[0].model)
    np.save(folder / "windows.npy", prepared.text.draw(1).final.astype("int64"))


def make_products(folder: Path) -> None:
    """Quantize the baseline by both tools, and put its tokenizer beside each product."""
    base = folder / "base"
    for name, (bits, symmetric, form) in AUTO_ROUND.items():
        _made(name, folder, lambda own, b=bits, s=symmetric, f=form: _auto_round(base, own, b, f, symmetric=s))  # type: ignore[misc]
    for name, options in GPTQ_MODEL.items():
        _made(name, folder, lambda own, given=options: _gptq_model(folder, own, **given))  # type: ignore[misc]


def _made(name: str, folder: Path, make: Callable[[Path], None]) -> None:
    target = folder / "products" / name
    if target.exists():
        return
    try:
        make(target)
    except Exception as error:  # noqa: BLE001 - the others are made all the same
        shutil.rmtree(target, ignore_errors=True)
        sys.stdout.write(f"{name}: not made: {type(error).__name__}: {error}\n")
        return
    for inner in [own for own in target.iterdir() if own.is_dir()]:  # AutoRound makes one for some of its forms
        for file in inner.iterdir():
            shutil.move(file, target / file.name)
        inner.rmdir()
    for own in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "base" / own, target / own)


def _auto_round(base: Path, target: Path, bits: int, form: str, *, symmetric: bool) -> None:
    quantizer = import_module("auto_round").AutoRound(
        str(base), bits=bits, group_size=GROUP, sym=symmetric, iters=0, disable_opt_rtn=True, device_map="cpu"
    )
    quantizer.quantize_and_save(output_dir=str(target), format=form)


def _gptq_model(folder: Path, target: Path, **options: Any) -> None:
    tool = import_module("gptqmodel")
    config = tool.QuantizeConfig(**{"group_size": GROUP, **options})
    model = tool.GPTQModel.load(str(folder / "base"), config, device="cpu", dtype=torch.float16)
    documents = (folder / "text.txt").read_text().split("\n\n")
    model.quantize(documents[-64:], batch_size=1)
    model.save(str(target))


def print_ratios(folder: Path) -> None:
    """Print the ratio of every product."""
    windows = torch.from_numpy(np.load(folder / "windows.npy"))
    base = _loss(folder / "base", windows)
    for product in sorted((folder / "products").iterdir()):
        try:
            told = f"{math.exp(_loss(product, windows) - base):.6f}"
        except Exception as error:  # noqa: BLE001 - told of the others all the same
            told = f"not run: {type(error).__name__}: {str(error)[:200]}"
        sys.stdout.write(f"{product.name}: {told}\n")


def store_modules(folder: Path) -> None:
    """Store one packed module of every product, 32 of its outputs, with the digest of what the tool unpacks it to.

    A module answers to the rows of the identity with its weight, as the tool unpacks it, here in float16.
    """
    from safetensors.torch import load_file, save_file

    tensors, told = dict[str, torch.Tensor](), dict[str, str]()
    for product in sorted((folder / "products").iterdir()):
        module = _as_run(product).get_submodule(MODULE)
        stored = load_file(product / "model.safetensors")
        inputs = len(stored[f"{MODULE}.g_idx"]) if f"{MODULE}.g_idx" in stored else 128
        with torch.no_grad():
            values = (module(torch.eye(inputs)).half() + 0)[:, :OUTPUTS].t().contiguous()  # no zero has a sign
        whole = stored[f"{MODULE}.scales"].shape[1]
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            if (own := stored.get(f"{MODULE}.{part}")) is not None:
                cut = own if own.ndim == 1 else own[:, : own.shape[1] * OUTPUTS // whole]
                tensors[f"{product.name}.{part}"] = cut.contiguous()
        config = json.loads((product / "config.json").read_text())["quantization_config"]
        kept = {key: config[key] for key in CONFIG_KEPT if key in config}
        digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
        told[product.name] = json.dumps({"config": kept, "sha256": digest})
    save_file(tensors, folder / "packed_by_tools.safetensors", metadata=told)


def _as_run(directory: Path) -> Any:
    """Return a model as transformers loads it, with the tool's unpacking in torch: its other ways compile kernels.

    5 bits, which transformers refuses, are loaded by GPTQModel itself.
    """
    from transformers import AutoModelForCausalLM, AwqConfig, GPTQConfig
    from transformers.utils.quantization_config import AwqBackend

    known = json.loads((directory / "config.json").read_text()).get("quantization_config", {})
    own: dict[str, Any] = {}
    if known.get("checkpoint_format") == "gptq_p":
        tool = import_module("gptqmodel")
        return tool.GPTQModel.load(
            str(directory), backend=tool.BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16
        ).model
    if known.get("quant_method") == "gptq":
        own = {"quantization_config": GPTQConfig(bits=4, backend="gptq_torch")}
    elif known.get("quant_method") == "awq":
        own = {"quantization_config": AwqConfig(backend=AwqBackend.TORCH_AWQ)}
    return AutoModelForCausalLM.from_pretrained(directory, dtype="auto", device_map="cpu", **own)


def _loss(directory: Path, windows: torch.Tensor) -> float:
    model = _as_run(directory)
    total = 0.0
    with torch.no_grad():
        for batch in torch.split(windows, BATCH):
            logits = model(input_ids=batch).logits[:, :-1].float()
            total += cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return total / (windows.shape[0] * (windows.shape[1] - 1))


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = {"text": make_text, "make": make_products, "ratios": print_ratios, "modules": store_modules}
    parser.add_argument("step", choices=steps)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    steps[options.step](options.folder)


if __name__ == "__main__":
    main()
