"""Copies of the embedded model, quantized by the real tools as their users do it, on a CPU and in a second each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.edited_checkpoints import EMBEDDED, edited_copy

_ADDED = 32
_TOKENS = torch.arange(256).reshape(4, 64)
"""What static scales of activations are calibrated on."""


def compressed_tensors_copy(target: Path, scheme: str, base: Path = EMBEDDED, **weights: Any) -> Path:
    """Round a model to the nearest by compressed-tensors' own scheme and compressor, all but its head.

    Args:
        target: the directory to make.
        scheme: the name of a preset, for example ``W4A16`` or ``NVFP4``.
        base: the model.
        weights: what replaces the preset's arguments for weights, for example ``group_size=32``.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    model = _loaded(base)
    chosen = preset_name_to_scheme(scheme, ["Linear"])
    if weights:
        chosen.weights = chosen.weights.model_copy(update=weights)
    inputs = _largest_inputs(model)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": chosen}, ignore=["lm_head"]))
    for name, module in model.named_modules():
        if hasattr(module, "quantization_scheme"):
            _set_scales(module, chosen, inputs[name])
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(target)
    compressor.update_config(str(target))
    return _with_tokenizer(target, base)


def bitsandbytes_copy(target: Path, base: Path = EMBEDDED, **options: Any) -> Path:
    """Quantize a model as ``BitsAndBytesConfig(**options)`` does, and save it."""
    from transformers import BitsAndBytesConfig

    return _quantized_at_load(target, base, BitsAndBytesConfig(**options))  # type: ignore[no-untyped-call]


def four_bits_with_activations() -> object:
    """Return torchao's configuration of 4-bit weights in groups of 32, with activations in 8 bits."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig
    from torchao.quantization.granularity import PerGroup

    four: Any = getattr(torch, "int4")  # noqa: B009 - unknown to torch's own stubs
    return Int8DynamicActivationIntxWeightConfig(weight_dtype=four, weight_granularity=PerGroup(32))


def torchao_copy(target: Path, config: object, base: Path = EMBEDDED) -> Path:
    """Quantize a model by a configuration of torchao's, through transformers, and save it."""
    from transformers import TorchAoConfig

    return _quantized_at_load(target, base, TorchAoConfig(quant_type=config))


def _quantized_at_load(target: Path, base: Path, config: object) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype="auto", device_map="cpu")
    model.save_pretrained(target)
    return _with_tokenizer(target, base)


def _loaded(base: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    return model


def _with_tokenizer(target: Path, base: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, target / name)
    return target


def _largest_inputs(model: PreTrainedModel) -> Mapping[str, Tensor]:
    """Return the largest magnitude that every linear module is given on some tokens."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            found[name] = given[0].abs().max()

        return note

    handles = [
        module.register_forward_pre_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        model(_TOKENS)
    for handle in handles:
        handle.remove()
    return found


def _set_scales(module: Any, scheme: Any, largest: Tensor) -> None:
    """Set a module's scales from the extremes of its weight, and of what it was given."""
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    weight: Tensor = module.weight.detach()
    rows = {
        "group": lambda own: own.unflatten(-1, (-1, scheme.weights.group_size)).flatten(0, -2),
        "tensor_group": lambda own: own.unflatten(-1, (-1, scheme.weights.group_size)).flatten(0, -2),
        "channel": lambda own: own,
        "tensor": lambda own: own.reshape(1, -1),
    }[str(scheme.weights.strategy)](weight)
    whole = None
    if hasattr(module, "weight_global_scale"):
        whole = generate_gparam(weight.min(), weight.max())
        module.weight_global_scale.data.copy_(whole)
    scale, zero = calculate_qparams(rows.amin(-1), rows.amax(-1), scheme.weights, whole)
    module.weight_scale.data.copy_(scale.reshape(module.weight_scale.shape))
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.data.copy_(zero.reshape(module.weight_zero_point.shape))
    if hasattr(module, "input_global_scale"):
        module.input_global_scale.data.copy_(generate_gparam(-largest, largest))
    if hasattr(module, "input_scale"):
        own, zero = calculate_qparams(-largest, largest, scheme.input_activations)
        module.input_scale.data.copy_(own.reshape(module.input_scale.shape))
        if hasattr(module, "input_zero_point"):
            module.input_zero_point.data.copy_(zero.reshape(module.input_zero_point.shape))


def blockwise_base(target: Path) -> Path:
    """Save the embedded model in bfloat16, its feed-forward rows a multiple of 64 long; its function is the same.

    The first neurons stand there twice, each with half of its output. bitsandbytes wants whole blocks of 64, and what
    compressed-tensors unpacks of four-bit floats is bfloat16.
    """

    def widen(tensors: dict[str, Tensor]) -> None:
        for name, weight in tensors.items():
            if name.endswith(("gate_proj.weight", "up_proj.weight")):
                tensors[name] = torch.cat((weight, weight[:_ADDED]))
            elif name.endswith("down_proj.weight"):
                half = weight[:, :_ADDED] / 2
                tensors[name] = torch.cat((half, weight[:, _ADDED:], half), dim=1).contiguous()
            tensors[name] = tensors[name].to(torch.bfloat16)

    return edited_copy(target, widen, intermediate_size=288 + _ADDED, dtype="bfloat16")


def logits_of_tokens(model: PreTrainedModel) -> Tensor:
    """Return a model's logits on some tokens, shape (2, 64, vocabulary)."""
    with torch.inference_mode():
        logits: Tensor = model(input_ids=_TOKENS[:2]).logits
    return logits
