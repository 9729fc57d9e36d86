"""Ladders: the parameters of an edit in the order of their strength, so that tuning can climb them.

A ladder stands in the record of its edit (:class:`pytest_proofpack.plan.edit_kinds.Edit`). It only says what is
stronger than what; how it is climbed is the business of :mod:`pytest_proofpack.plan.climbing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Rung = Mapping[str, int | float | str]
"""The parameters of an edit, by name."""
WHOLE_SCOPE = ("",)


@dataclass(frozen=True)
class Reach:
    """What of a model a scope reaches, as far as a ladder has to know it.

    Attributes:
        blocks: how many blocks the model has.
        width: the smaller side of the smallest matrix in the scope.
    """

    blocks: int
    width: int


@dataclass(frozen=True)
class Ladder:
    """How the clean parameters of an edit are found.

    Attributes:
        rungs: returns the parameters of every rung for what the scope reaches, the gentlest first.
        places: returns the parts of the scope of which the edit is to take one, as ends of scopes: ``@layer=3``. By
            default the edit takes the whole scope.
    """

    rungs: Callable[[Reach], Sequence[Rung]]
    places: Callable[[Reach], Sequence[str]] = lambda _reach: WHOLE_SCOPE


def some_layers(reach: Reach) -> list[str]:
    """Return the layers at a quarter, at half and at three quarters of a model's depth, as places."""
    layers = {reach.blocks * quarter // 4 for quarter in (1, 2, 3)}
    return [f"@layer={layer}" for layer in sorted(layers)]
