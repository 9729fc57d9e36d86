"""The demand that a certain model is certified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_proofpack.pack.terms.term import Judgement, Term, digest_in

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import ModelIdentity, Verified


@dataclass(frozen=True)
class WantedModel:
    """A model by its id, by the digest of its files, or by both; with an id there may be a revision instead."""

    id: str | None
    revision: str | None
    digest: str | None

    def is_called(self, model: ModelIdentity) -> bool:
        """Tell whether a model has this id, or may have any."""
        return self.id in {None, model.id}

    def fits(self, model: ModelIdentity) -> bool:
        """Tell whether a model is this one; a digest is compared with digests only, for a revision may be any word."""
        by_files = self.digest is None or model.digests == (self.digest,)
        return self.is_called(model) and by_files and self.revision in {None, model.revision}


def _read(text: str) -> WantedModel:
    model, separator, revision = text.partition("@")
    if not model or (separator and not revision):
        raise ValueError("expected ID or ID@REV; REV is a revision, or the digest of the model's files")
    if (digest := digest_in(model)) is not None:
        if revision:
            raise ValueError("expected ID or ID@REV; what stands before the @ is a digest")
        return WantedModel(None, None, digest)
    digest = digest_in(revision)
    return WantedModel(model, None if digest is not None else revision or None, digest)


def _judge(wanted: WantedModel, facts: Verified) -> Judgement:
    named = [found for found in (*facts.models, *facts.subjects) if wanted.is_called(found)]
    if not named:
        others = ", ".join(found.id for found in (*facts.models, *facts.subjects))
        return Judgement(False, f"it is not certified here; certified: {others}")
    fitting = [found for found in named if wanted.fits(found)]
    return Judgement(bool(fitting), "; ".join(found.told for found in fitting or named))


EXPECT_MODEL = Term(
    "expect-model",
    "demand that this model is one of those certified, a subject or a baseline; may be given several times",
    "ID[@REV]",
    _read,
    _judge,
    repeatable=True,
)
