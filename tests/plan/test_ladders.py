"""The ladders of the package's own edits, on models of every size."""

from __future__ import annotations

import pytest

from pytest_proofpack.plan.climbing import require_climbable
from pytest_proofpack.plan.edit_kinds import EDITS
from pytest_proofpack.plan.edit_specs import validated
from pytest_proofpack.plan.ladders import Reach, some_layers
from pytest_proofpack.plan.records import EditSpec

REACHES = (Reach(1, 8), Reach(2, 32), Reach(4, 128), Reach(32, 4096), Reach(80, 8192))


@pytest.mark.parametrize("name", [edit.name for edit in EDITS.values() if edit.scoped])
@pytest.mark.parametrize("reach", REACHES, ids=str)
def test_every_rung_is_an_edit_and_no_two_are_the_same(name: str, reach: Reach) -> None:
    ladder = EDITS[name].ladder
    assert ladder is not None
    rungs, places = ladder.rungs(reach), ladder.places(reach)
    require_climbable(name, len(places), len(rungs))
    edits = {str(validated(EditSpec(name, f"ffn{place}", rung))) for place in places for rung in rungs}
    assert len(edits) == len(places) * len(rungs)


def test_rungs_get_stronger() -> None:
    reach = Reach(32, 4096)
    rungs = {name: EDITS[name].ladder.rungs(reach) for name in EDITS if EDITS[name].ladder}  # type: ignore[union-attr]
    steps = [(-int(rung["bits"]), int(rung["group_size"])) for rung in rungs["quant_rtn"]]
    assert steps == sorted(steps)
    sparsities = [rung["sparsity"] for rung in rungs["magnitude_prune"]]
    assert sparsities == sorted(sparsities)
    ranks = [int(rung["rank"]) for rung in rungs["lowrank_svd"]]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] < 4096  # full rank would be no edit
    assert ranks[-1] == 32


def test_layers_lie_within_the_model() -> None:
    assert some_layers(Reach(32, 1)) == ["@layer=8", "@layer=16", "@layer=24"]
    assert some_layers(Reach(2, 1)) == ["@layer=0", "@layer=1"]
    assert some_layers(Reach(1, 1)) == ["@layer=0"]
