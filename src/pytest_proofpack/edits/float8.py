"""Casting to an 8-bit floating-point format and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_proofpack.edits.scope import MatrixView
from pytest_proofpack.records import EditSpec

_FORMATS = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def apply_fp8_quant(views: list[MatrixView], edit: EditSpec, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Cast every matrix to the edit's format and back; return the sums of clipped and flushed elements."""
    target = _FORMATS[str(edit.parameters["format"])]
    clipped, flushed = [], []
    for view in views:
        matrix = view.read(view.tensor.dtype)
        cast = cast_float8(matrix, target)
        clipped.append((matrix.abs() > torch.finfo(target).max).sum())
        flushed.append(((matrix != 0) & (cast == 0)).sum())
        view.write(cast)
    # Counted on the device, and fetched only when all work has been launched.
    totals = {"clipped": clipped, "flushed": flushed}
    return {"matrices": len(views)} | {name: sum(count.item() for count in own) for name, own in totals.items()}


def cast_float8(matrix: Tensor, target: torch.dtype) -> Tensor:
    """Return values after a cast to an 8-bit format and back, in their own dtype, which holds all values of the format.

    Values beyond the format's range saturate to its largest finite value. Without that, e5m2 gives infinities, and
    what e4m3fn gives, NaN or 448, depends on the version of torch.
    """
    limit = torch.finfo(target).max
    return matrix.clamp(-limit, limit).to(target).to(matrix.dtype)
