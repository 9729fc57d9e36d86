"""compressed-tensors by itself: its preset schemes, rounded to the nearest, and its own compressor.

What llm-compressor's presets do without data. Schemes whose scales of activations are calibrated (FP8, NVFP4) need a
text, and are no recipes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_proofpack.plan.tool_edits import Recipe, Tool, ToolJob

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_NAME = "compressed-tensors"


def _make(job: ToolJob) -> None:
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    model, scheme = job.load(), preset(job)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=heads(model)))
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "quantization_scheme"):
                _set_scales(module, scheme.weights)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(job.target)
    compressor.update_config(str(job.target))


def preset(job: ToolJob) -> Any:
    """Return the scheme of a recipe, with the job's group."""
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    scheme = preset_name_to_scheme(job.recipe.name, ["Linear"])
    if job.recipe.any_group:
        scheme.weights = scheme.weights.model_copy(update={"group_size": job.group})
    return scheme


def heads(model: PreTrainedModel) -> list[str]:
    """Return the names of what turns hidden states into logits, which stays as it is."""
    head: object = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return [name for name, module in model.named_modules() if module is head]


def _set_scales(module: Any, rules: Any) -> None:
    """Set a module's scales from the extremes of its weight, as an observer of smallest and largest values does."""
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    weight: Tensor = module.weight
    rows = weight if rules.group_size is None else weight.reshape(-1, rules.group_size)
    whole = None
    if hasattr(module, "weight_global_scale"):
        whole = generate_gparam(weight.min(), weight.max())
        module.weight_global_scale.copy_(whole)
    scale, zero = calculate_qparams(rows.amin(-1), rows.amax(-1), rules, whole)
    module.weight_scale.copy_(scale.reshape(module.weight_scale.shape))
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.copy_(zero.reshape(module.weight_zero_point.shape))


def _recipe(name: str, group: int | None = None, **facts: Any) -> Recipe:
    form = f"{_NAME}-asymmetric" if name.endswith("_ASYM") else _NAME
    return Recipe(name, f"{_NAME}:{name}", name, form, group=group, **facts)


RECIPES = (
    _recipe("W4A16", 128, any_group=True),
    _recipe("W4A16_ASYM", 128, any_group=True),
    _recipe("W8A16", 128, any_group=True),
    _recipe("W4A8", 128, any_group=True),
    _recipe("W8A8"),
    _recipe("FP8_DYNAMIC"),
    _recipe("NVFP4A16", 16, half_only=True),
    _recipe("MXFP4A16", 32, half_only=True),
    _recipe("MXFP4", 32, half_only=True),
    _recipe("MXFP8", 32, half_only=True),
)
"""The presets that need no data."""

COMPRESSED_TENSORS = Tool(_NAME, _NAME, RECIPES, _make)
