"""The demand that every certificate was judged by a certain tier's thresholds, or by a stricter one's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.pack.terms.term import Judgement, Term

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import Verified

FROM_LOOSE_TO_STRICT = ("aggressive", "balanced", "conservative")


def _read(text: str) -> str:
    if text not in FROM_LOOSE_TO_STRICT:
        raise ValueError(f"expected one of {', '.join(FROM_LOOSE_TO_STRICT)}, the strictest last")
    return text


def _judge(least: str, facts: Verified) -> Judgement:
    enough = FROM_LOOSE_TO_STRICT[FROM_LOOSE_TO_STRICT.index(least) :]
    return Judgement(set(facts.tiers) <= set(enough), f"the tier is {' and '.join(facts.tiers)}")


MIN_TIER = Term(
    "min-tier", "demand this tier or a stricter one: aggressive, balanced, conservative", "TIER", _read, _judge
)
