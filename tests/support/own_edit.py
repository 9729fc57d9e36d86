"""An edit of one's own, as a user writes one: soft thresholding, which moves every weight towards zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.plan.edit_kinds import Edit, Parameter
from pytest_proofpack.plan.ladders import Ladder

if TYPE_CHECKING:
    from pytest_proofpack.models.matrices import MatrixView


def soften(views: list[MatrixView], parameters: Mapping[str, Any], _seed: int) -> dict[str, Any]:
    """Shrink every magnitude by the threshold, and set those below it to zero; return how many those are."""
    zeros = 0
    for view in views:
        for slab in view.slabs():
            weights = slab.read()
            softened = weights.sign() * (weights.abs() - parameters["threshold"]).clamp(min=0)
            slab.write(softened)
            zeros += int((softened == 0).sum())
    return {"matrices": len(views), "zeros": zeros}


SOFT_THRESHOLD = Edit(
    name="soft_threshold",
    apply=soften,
    words="every magnitude reduced by a threshold, and those below it set to zero",
    parameters=(Parameter("threshold", float, "a number above 0", lambda threshold: threshold > 0),),
    told_by=frozenset({"softened"}),
    clean={"status": "selected", "scope": "ffn", "threshold": 0.0001},
    ladder=Ladder(lambda _reach: [{"threshold": 10.0**power} for power in range(-6, 2)]),
)


def pytest_proofpack_register(registry: Any) -> None:
    registry.edits.register(SOFT_THRESHOLD)
