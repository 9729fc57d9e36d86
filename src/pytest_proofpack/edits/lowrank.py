"""Every matrix replaced by its best approximation of low rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.plan.edit_kinds import Edit, Parameter
from pytest_proofpack.plan.ladders import Ladder, Reach, Rung, some_layers

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_proofpack.models.matrices import MatrixView


def apply_lowrank_svd(views: list[MatrixView], parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Replace every matrix by its best approximation of the edit's rank.

    Returns:
        How many matrices, how many of them by the randomized method, and the smallest and the mean captured energy
        (the share of the squared Frobenius norm that the approximation keeps).
    """
    from pytest_proofpack.edits.approximation import best_of_rank, is_large, random_sketch, side_by_side
    from pytest_proofpack.edits.seeds import derived_seed

    rank, own_seed = parameters["rank"], derived_seed(seed, "sketch")
    places = dict.fromkeys((view.shape[1], view.tensor.device) for view in views)
    sketches = {place: random_sketch(place[0], rank, own_seed, place[1]) for place in places}

    def approximate_in_place(view: MatrixView) -> Tensor:
        """Return the captured energy."""
        approximation, energy = best_of_rank(view.read(), rank, sketches[view.shape[1], view.tensor.device])
        view.write(approximation)
        return energy

    measured = side_by_side(views, approximate_in_place)
    energies = [energy.item() for energy in measured]
    return {
        "matrices": len(views),
        "randomized": sum(is_large(view.shape, rank) for view in views),
        "energy_min": min(energies),
        "energy_mean": sum(energies) / len(energies),
    }


_SHARES = (120, 112, 96, 80, 64, 48, 32, 24, 16, 12, 8, 6, 4, 2, 1)
"""Ranks on the ladder, in 128ths of the smallest matrix's full rank."""


def _rungs(reach: Reach) -> list[Rung]:
    ranks = dict.fromkeys(reach.width * share // 128 for share in _SHARES)
    return [{"rank": rank} for rank in ranks if rank >= 1]


_ROUNDING = 1e-3


def _possible(facts: Mapping[str, Any], _parameters: Mapping[str, Any]) -> bool:
    """Tell whether no approximation keeps more than there is, and the least is not above the mean."""
    least, mean = facts["energy_min"], facts["energy_mean"]
    return (
        facts.keys() == {"matrices", "randomized", "energy_min", "energy_mean"}
        and 0 <= facts["randomized"] <= facts["matrices"]
        and 0 <= least <= mean * (1 + _ROUNDING) <= (1 + _ROUNDING) ** 2
    )


LOWRANK_SVD = Edit(
    name="lowrank_svd",
    apply=apply_lowrank_svd,
    phrase="approximation at rank {rank}",
    words="the best approximation of every matrix of that rank",
    parameters=(Parameter("rank", int, "a whole number of at least 1", lambda rank: rank >= 1),),
    cost=6.0,  # a guess: a factorization takes a few products with each matrix
    told_by=frozenset({"svd", "lowrank"}),
    possible=_possible,
    clean={
        "status": "skipped",
        "edit_dir_name": "svd_rank32_l31_clean",
        "reason": "the rank that one layer of a model bears has to be tuned for that model",
    },
    ladder=Ladder(_rungs, places=some_layers),
)
