"""The demand that the verdict is a certain one: without it, a pack that proves a FAIL is as good as any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.certificate.limits import looser_names
from pytest_proofpack.pack.terms.term import Judgement, Term

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import Verified

OWN = "PASS:own-limits"
"""A PASS by whatever limits the pack says it has: for who has set them, or has read them."""
VERDICTS = ("PASS", "FAIL", OWN)


def _read(text: str) -> str:
    if text not in VERDICTS:
        raise ValueError(f"expected one of {', '.join(VERDICTS)}")
    return text


def _judge(wanted: str, facts: Verified) -> Judgement:
    found, loose = f"the verdict is {facts.verdict}", looser_names(facts.limits)
    if wanted == "PASS" and facts.verdict == "PASS" and loose:
        tier = " and ".join(facts.tiers)
        why = f"{found}, by limits of its own that are looser than {tier}: {loose}. {OWN} accepts them"
        return Judgement(False, why)
    return Judgement(facts.verdict == wanted.removesuffix(":own-limits"), found)


REQUIRE_VERDICT = Term(
    "require-verdict", "demand this verdict: PASS, for whoever relies on it", "PASS", _read, _judge, by_gates=True
)
