"""bitsandbytes, through transformers' own integration: eight bits, or four in one of two grids."""

from __future__ import annotations

from typing import Any

from pytest_proofpack.plan.tool_edits import Recipe, Tool, ToolJob

_NAME = "bitsandbytes"
_BLOCK = 64
"""Values that share a scale in four bits; they run on from row to row."""


def _make(job: ToolJob) -> None:
    from transformers import BitsAndBytesConfig

    name = job.recipe.name
    grid, _, twice = name.partition("-")
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": grid, "bnb_4bit_use_double_quant": bool(twice)}
    options: dict[str, Any] = {"load_in_8bit": True} if name == "int8" else four
    job.load(BitsAndBytesConfig(**options)).save_pretrained(job.target)  # type: ignore[no-untyped-call]


def _recipe(name: str, label: str, whole: int = _BLOCK) -> Recipe:
    return Recipe(name, f"bnb-{label}", name, _NAME, whole=whole)


BITSANDBYTES = Tool(
    _NAME,
    _NAME,
    (
        _recipe("int8", "int8", whole=1),
        _recipe("nf4", "nf4"),
        _recipe("nf4-double", "nf4"),
        _recipe("fp4", "fp4"),
        _recipe("fp4-double", "fp4"),
    ),
    _make,
)
