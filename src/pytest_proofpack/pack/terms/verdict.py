"""The demand that the verdict is a certain one: without it, a pack that proves a FAIL is as good as any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.pack.terms.term import Judgement, Term

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import Verified

VERDICTS = ("PASS", "FAIL")


def _read(text: str) -> str:
    if text not in VERDICTS:
        raise ValueError(f"expected one of {', '.join(VERDICTS)}")
    return text


def _judge(wanted: str, facts: Verified) -> Judgement:
    return Judgement(facts.verdict == wanted, f"the verdict is {facts.verdict}")


REQUIRE_VERDICT = Term("require-verdict", "demand this verdict: PASS, for whoever relies on it", "PASS", _read, _judge)
