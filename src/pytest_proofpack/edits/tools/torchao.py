"""torchao, through transformers' own integration: rounding to the nearest, nothing is calibrated."""

from __future__ import annotations

from typing import Any

from pytest_proofpack.plan.tool_edits import Recipe, Tool, ToolJob

_NAME = "torchao"
_GROUP = 32
"""What torchao itself takes where activations are quantized too."""


def _make(job: ToolJob) -> None:
    from transformers import TorchAoConfig

    job.load(TorchAoConfig(quant_type=_configuration(job))).save_pretrained(job.target)


def _configuration(job: ToolJob) -> object:
    """Return torchao's configuration of a recipe."""
    import torch
    from torchao import quantization
    from torchao.quantization.granularity import PerGroup

    four: Any = getattr(torch, "int4", None)  # unknown to torch's own stubs
    match job.recipe.name:
        case "int8wo":
            return quantization.Int8WeightOnlyConfig()
        case "fp8wo":
            return quantization.Float8WeightOnlyConfig()
        case "int8dyn-int8w":
            return quantization.Int8DynamicActivationInt8WeightConfig()
        case "fp8dyn-fp8w":
            return quantization.Float8DynamicActivationFloat8WeightConfig()
        case "int4wo":
            return quantization.IntxWeightOnlyConfig(weight_dtype=four, granularity=PerGroup(job.group))
    return quantization.Int8DynamicActivationIntxWeightConfig(weight_dtype=four, weight_granularity=PerGroup(job.group))


def _recipe(name: str, **facts: Any) -> Recipe:
    return Recipe(name, f"{_NAME}:{name}", name, _NAME, **facts)


TORCHAO = Tool(
    _NAME,
    _NAME,
    (
        _recipe("int8wo"),
        _recipe("fp8wo"),
        _recipe("int4wo", group=_GROUP, any_group=True),
        _recipe("int8dyn-int8w"),
        _recipe("int8dyn-int4w", group=_GROUP, any_group=True),
        _recipe("fp8dyn-fp8w", gpu="float8 activations"),
    ),
    _make,
)
