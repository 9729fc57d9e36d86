"""The demand that a pack's certificates were judged by the gates of a certain format.

A demand on what gates said is not met by a pack of an older format, which lacks some: a model that fails by one of them
passes there. Whoever accepts such packs says so with this demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.certificate.formats import CURRENT, FORMATS
from pytest_proofpack.certificate.older import format_words
from pytest_proofpack.pack.terms.term import Judgement, Term

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import Verified


def _read(text: str) -> int:
    numbers = {str(number): number for number in FORMATS}
    if text not in numbers:
        raise ValueError(f"expected one of {', '.join(numbers)}, the newest last")
    return numbers[text]


def _judge(least: int, facts: Verified) -> Judgement:
    return Judgement(facts.format >= least, _told(facts))


def too_old(least: int, facts: Verified) -> Judgement | None:
    """Return why a pack meets no demand on what gates said; None if its format is new enough."""
    if facts.format >= least:
        return None
    advice = f"Have the pack made anew by a version that has them, or accept it as it is with min-format={facts.format}"
    return Judgement(False, f"{_told(facts)}. {advice}")


def _told(facts: Verified) -> str:
    return f"its certificates are of {format_words(FORMATS[facts.format]) or f'format {facts.format}'}"


MIN_FORMAT = Term(
    "min-format",
    f"demand certificates of this format or a newer one; {CURRENT.number} wherever a verdict, a suite or a tier is "
    "demanded, for older ones lack gates",
    "N",
    _read,
    _judge,
    whole_number=True,
)
