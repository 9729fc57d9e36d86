"""The demand that every certificate was measured on a certain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.pack.terms.term import Judgement, Term

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import TextIdentity, Verified


def _read(text: str) -> str:
    if not text:
        raise ValueError("expected the digest of a text, or the name of a data set")
    return text


def _judge(wanted: str, facts: Verified) -> Judgement:
    met = bool(facts.texts) and all(_is(wanted, text) for text in facts.texts)
    return Judgement(met, "; ".join(text.told for text in facts.texts))


def _is(wanted: str, text: TextIdentity) -> bool:
    names = {text.sha256, text.provider}
    if text.dataset is not None:
        names |= {text.dataset, f"{text.dataset}@{text.revision}"}
    return wanted in names


EXPECT_TEXT = Term(
    "expect-text",
    "demand this evaluation text: its digest, its data set (ID[@REV]), or the name of its source",
    "TEXT",
    _read,
    _judge,
)
