"""Copies of the embedded model on disk, edited the way that other people's tools edit checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.text.synthetic import generate

EMBEDDED = suites_directory() / "tiny_model"
Tensors = dict[str, Tensor]


def edited_copy(target: Path, edit: Callable[[Tensors], object] = lambda _: None, **config: object) -> Path:
    """Copy the embedded model, change its tensors and its configuration, and return the directory."""
    target.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / name, target / name)
    known = json.loads((EMBEDDED / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**known, **config}))
    tensors = load_file(EMBEDDED / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def quantize(tensors: Tensors, *, bits: int = 4, group: int = 32) -> None:
    """Round every feed-forward matrix to ``bits`` bits with one scale per group of columns."""
    largest = 2 ** (bits - 1) - 1
    for name, weight in tensors.items():
        if ".mlp." in name:
            groups = weight.reshape(weight.shape[0], -1, group)
            scale = groups.abs().amax(dim=-1, keepdim=True) / largest
            tensors[name] = ((groups / scale).round() * scale).reshape(weight.shape).contiguous()


def store_as_fp8(tensors: Tensors, *, block: int = 32) -> None:
    """Store the blocks' matrices in float8 with one scale per square, as the method ``fp8`` has them."""
    for name in [name for name in tensors if "layers" in name and tensors[name].ndim == 2]:
        weight = tensors[name]
        rows, columns = weight.shape
        squares = weight.reshape(rows // block, block, columns // block, block)
        scale = squares.abs().amax(dim=(1, 3)) / 448
        tensors[name] = (squares / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
        tensors[name.replace(".weight", ".weight_scale_inv")] = scale


FP8_CONFIG = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}


def store_as_mxfp8(tensors: Tensors) -> None:
    """Store the blocks' matrices in float8 with one power of two per 32 inputs, as the method ``mxfp8`` has them."""
    for name in [name for name in tensors if "layers" in name and tensors[name].ndim == 2]:
        groups = torch.unflatten(tensors[name], -1, (-1, 32))
        exponent = (groups.abs().amax(dim=-1, keepdim=True) / 448).log2().ceil()
        tensors[name] = (groups / 2**exponent).flatten(-2).to(torch.float8_e4m3fn)
        tensors[name.replace(".weight", ".weight_scale_inv")] = (exponent.squeeze(-1) + 127).to(torch.uint8)


def store_as_mxfp4(tensors: Tensors) -> None:
    """Store fused experts in four bits with one power of two per 32 inputs, as the method ``mxfp4`` has them."""
    levels = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    levels = torch.cat((levels, -levels))
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        weight = tensors.pop(name).transpose(1, 2)
        groups = torch.unflatten(weight, -1, (-1, 32))
        exponent = (groups.abs().amax(dim=-1, keepdim=True) / 6).log2().ceil()
        codes = (groups / 2**exponent).unsqueeze(-1).sub(levels).abs().argmin(dim=-1).to(torch.uint8)
        tensors[f"{name}_blocks"] = (codes[..., 0::2] | (codes[..., 1::2] << 4)).contiguous()
        tensors[f"{name}_scales"] = (exponent.squeeze(-1) + 127).to(torch.uint8)


def fine_tune(target: Path, *, steps: int = 5) -> Path:
    """Train the embedded model for a few steps on more of its language, and save it as a user would."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(EMBEDDED)
        tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
        text = "\n".join(document.text for document in generate(9, 120, "training"))
        tokens = torch.tensor(tokenizer(text, verbose=False)["input_ids"][: steps * 8 * 128]).reshape(steps, 8, 128)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for batch in tokens:
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
