"""The demand that every certificate was measured on a certain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.pack.terms.term import Judgement, Term, digest_in

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
    """Compare a text with what was demanded: digests with digests only, for a source may be called anything."""
    if (digest := digest_in(wanted)) is not None:
        return digest == text.sha256
    name, separator, revision = wanted.partition("@")
    if not separator:
        return name in {text.provider, text.dataset}
    digest = digest_in(revision)
    return name == text.dataset and (revision == text.revision if digest is None else digest == text.sha256)


EXPECT_TEXT = Term(
    "expect-text",
    "demand this evaluation text: its digest, its data set (ID[@REV]), or the name of its source",
    "TEXT",
    _read,
    _judge,
)
