"""The demand that every certificate was judged by a certain tier's thresholds, or by a stricter one's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.certificate.limits import looser_names
from pytest_proofpack.certificate.policy import limits_beside
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
    found = f"the tier is {' and '.join(facts.tiers)}"
    own: dict[str, dict[str, object]] = {}
    for limit in facts.limits:
        section, key = limit.name.split(".")
        own.setdefault(section, {})[key] = limit.value
    loose = looser_names([one for profile in facts.profiles for one in limits_beside(least, profile, {"limits": own})])
    if loose:
        return Judgement(False, f"{found}, with limits of its own that are looser than {least}: {loose}")
    return Judgement(set(facts.tiers) <= set(enough), found)


MIN_TIER = Term(
    "min-tier",
    "demand this tier or a stricter one: aggressive, balanced, conservative",
    "TIER",
    _read,
    _judge,
    by_gates=True,
)
