"""Casting to an 8-bit floating-point format and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.plan.edit_kinds import Edit, Parameter
from pytest_proofpack.plan.ladders import Ladder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pytest_proofpack.models.matrices import MatrixView

_FORMATS = {"e4m3fn": "float8_e4m3fn", "e5m2": "float8_e5m2"}
"""By their names in specs, those that torch has for them."""


def apply_fp8_quant(views: list[MatrixView], parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Cast every matrix to the edit's format and back; return the sums of clipped and flushed elements."""
    import torch

    target: torch.dtype = getattr(torch, _FORMATS[parameters["format"]])
    # Counted on the device, and fetched only when all work has been launched.
    counts = [_cast_in_place(view, target) for view in views]
    clipped, flushed = (sum(own) for own in zip(*(count.tolist() for count in counts), strict=True))
    return {"matrices": len(views), "clipped": clipped, "flushed": flushed}


def _cast_in_place(view: MatrixView, target: torch.dtype) -> Tensor:
    """Return how many elements were clipped and how many flushed to zero, shape (2,)."""
    import torch

    from pytest_proofpack.models.slabs import count_true

    counts = torch.zeros(2, dtype=torch.int64, device=view.tensor.device)
    for slab in view.slabs():
        matrix = slab.read(slab.tensor.dtype)
        cast = cast_float8(matrix, target)
        counts[0] += count_true(matrix.abs() > torch.finfo(target).max)
        counts[1] += count_true((matrix != 0) & (cast == 0))
        slab.write(cast)
    return counts


def cast_float8(matrix: Tensor, target: torch.dtype) -> Tensor:
    """Return values after a cast to an 8-bit format and back, in their own dtype, which holds all values of the format.

    Values beyond the format's range saturate to its largest finite value. Without that, e5m2 gives infinities, and
    what e4m3fn gives, NaN or 448, depends on the version of torch.
    """
    import torch

    limit = torch.finfo(target).max
    return matrix.clamp(-limit, limit).to(target).to(matrix.dtype)


def _possible(facts: Mapping[str, Any], _parameters: Mapping[str, Any]) -> bool:
    """Tell whether what was clipped and flushed are numbers of elements."""
    counts = (facts["clipped"], facts["flushed"])
    return facts.keys() == {"matrices", "clipped", "flushed"} and all(type(n) is int and n >= 0 for n in counts)


FP8_QUANT = Edit(
    name="fp8_quant",
    apply=apply_fp8_quant,
    phrase="casting to the 8-bit float {format}",
    words="cast to an 8-bit float and back, saturating",
    parameters=(Parameter("format", str, "e4m3fn or e5m2", lambda name: name in _FORMATS),),
    cost=1.6,  # a guess: every weight is read and written
    told_by=frozenset({"fp8"}),
    possible=_possible,
    clean={"status": "selected", "edit_dir_name": "fp8_e5m2_clean", "scope": "ffn", "format": "e5m2"},
    ladder=Ladder(lambda _reach: [{"format": "e4m3fn"}, {"format": "e5m2"}]),  # e5m2 has a bit of mantissa less
)
