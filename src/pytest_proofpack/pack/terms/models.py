"""The demand that a certain model is certified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.pack.terms.term import Judgement, Term

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import ModelIdentity, Verified

Wanted = tuple[str, str]


def _read(text: str) -> Wanted:
    model, separator, revision = text.partition("@")
    if not model or (separator and not revision):
        raise ValueError("expected ID or ID@REV; REV is a revision, or the digest of the model's files")
    return model, revision


def _judge(wanted: Wanted, facts: Verified) -> Judgement:
    model, revision = wanted
    named = [found for found in (*facts.models, *facts.subjects) if found.id == model]
    if not named:
        others = ", ".join(found.id for found in (*facts.models, *facts.subjects))
        return Judgement(False, f"it is not certified here; certified: {others}")
    fitting = [found for found in named if not revision or _is_of(found, revision)]
    return Judgement(bool(fitting), "; ".join(found.told for found in fitting or named))


def _is_of(model: ModelIdentity, revision: str) -> bool:
    return revision == model.revision or (revision,) == model.digests


EXPECT_MODEL = Term(
    "expect-model",
    "demand that this model is one of those certified, a subject or a baseline; may be given several times",
    "ID[@REV]",
    _read,
    _judge,
    repeatable=True,
)
