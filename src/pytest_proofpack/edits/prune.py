"""Magnitude pruning: the smallest weights of every matrix become zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.plan.edit_kinds import Edit, Parameter
from pytest_proofpack.plan.ladders import Ladder

if TYPE_CHECKING:
    from pytest_proofpack.models.matrices import MatrixView


def apply_magnitude_prune(views: list[MatrixView], parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Prune every matrix; return the number of elements, and of zeros afterwards."""
    from pytest_proofpack.edits.order_statistics import prune_smallest
    from pytest_proofpack.models.slabs import count_true

    sparsity = float(parameters["sparsity"])
    zeros = []
    for view in views:
        prune_smallest(view.tensor.detach(), sparsity)
        zeros.append(count_true(view.tensor == 0))
    elements = sum(view.tensor.numel() for view in views)
    # Counted on the device, and fetched only when all work has been launched.
    return {"matrices": len(views), "elements": elements, "zeros": sum(count.item() for count in zeros)}


_SPARSITIES = (0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7)


def _possible(facts: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Tell whether there are as many zeros as the sparsity asks for, to half an element per matrix, or more."""
    asked = parameters["sparsity"] * facts["elements"] - facts["matrices"] / 2
    return facts.keys() == {"matrices", "elements", "zeros"} and asked <= facts["zeros"] <= facts["elements"]


MAGNITUDE_PRUNE = Edit(
    name="magnitude_prune",
    apply=apply_magnitude_prune,
    phrase="setting the smallest {sparsity:.1%} of the values to zero",
    words="the exact share of smallest magnitudes of every matrix set to zero",
    parameters=(Parameter("sparsity", float, "a number above 0 and below 1", lambda share: 0 < share < 1),),
    cost=2.0,  # a guess: an exact threshold selects among the weights besides reading and writing them
    told_by=frozenset({"prune", "pruned"}),
    possible=_possible,
    clean={"status": "selected", "edit_dir_name": "prune_12pct_clean", "scope": "ffn", "sparsity": 0.12},
    ladder=Ladder(lambda _reach: [{"sparsity": sparsity} for sparsity in _SPARSITIES]),
)
