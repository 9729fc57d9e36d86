"""Round-to-nearest quantization, symmetric, with one scale per row and group of columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.plan.edit_kinds import Edit, Parameter
from pytest_proofpack.plan.ladders import Ladder, Reach, Rung

if TYPE_CHECKING:
    from pytest_proofpack.models.matrices import MatrixView


def apply_quant_rtn(views: list[MatrixView], parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Quantize and dequantize every matrix; return how many matrices and groups there were."""
    from pytest_proofpack.edits.rounding import quantize_rtn

    bits, group_size = parameters["bits"], parameters["group_size"]
    groups = 0
    for view in views:
        for slab in view.slabs():
            slab.write(quantize_rtn(slab.read(), bits, group_size))
        rows, columns = view.shape
        groups += rows * -(-columns // group_size)
    return {"matrices": len(views), "groups": groups}


def _rungs(reach: Reach) -> list[Rung]:
    """Return bits and group sizes: twice the group costs less than a bit, and a group is no longer than a row."""
    sizes = [size for size in (32, 64, 128) if size == 32 or size <= reach.width]
    return [{"bits": bits, "group_size": size} for bits in range(8, 1, -1) for size in sizes]


def _possible(facts: Mapping[str, Any], _parameters: Mapping[str, Any]) -> bool:
    """Tell whether there is at least one group in every matrix."""
    return facts.keys() == {"matrices", "groups"} and facts["groups"] >= facts["matrices"]


QUANT_RTN = Edit(
    name="quant_rtn",
    apply=apply_quant_rtn,
    phrase="rounding to {bits} bits in groups of {group_size}",
    words="round to nearest, one scale per output row and group of input columns",
    parameters=(
        Parameter("bits", int, "a whole number from 2 to 8", lambda bits: 2 <= bits <= 8),
        Parameter("group_size", int, "a whole number of at least 1", lambda size: size >= 1),
    ),
    cost=1.6,  # a guess: every weight is read and written
    told_by=frozenset({"rtn"}),
    possible=_possible,
    clean={"status": "selected", "edit_dir_name": "quant_4bit_clean", "scope": "ffn", "bits": 4, "group_size": 32},
    ladder=Ladder(_rungs),
)
