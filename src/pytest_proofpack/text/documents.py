"""The documents of a text, and the digest that pins them: what every model of a run is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.plan.text_sources import TEXT_SOURCES
from pytest_proofpack.text.local_files import text_name


def load_documents(spec: TextSpec) -> list[str]:
    """Return the documents of a text, without empty ones and exact duplicates, in the order of first appearance.

    Raises:
        ConfigurationError: an unknown provider; a text that holds nothing, or no text; whatever its source refuses.
    """
    documents = _texts_only(TEXT_SOURCES.require(spec.provider).load(spec), spec)
    unique = list(dict.fromkeys(document for document in documents if document.strip()))
    if not unique:
        raise ConfigurationError(f"{text_name(spec)}: holds no text. Name a text with at least one document in it.")
    return unique


def text_sha256(documents: Sequence[str]) -> str:
    """Return the hexadecimal SHA-256 over all documents, each preceded by its length in bytes (64 bits, little-endian).

    The lengths make document boundaries count; the tokenizer plays no part.
    """
    digest = hashlib.sha256()
    for document in documents:
        raw = document.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def recorded_source(spec: TextSpec) -> dict[str, Any] | None:
    """Return what certificates record about the data set that a text is from; None if it is from none."""
    if not TEXT_SOURCES.require(spec.provider).is_dataset:
        return None
    source = {"dataset": spec.dataset, "config": spec.config, "revision": spec.revision, "field": spec.field}
    sample = {"documents": spec.documents, "seed": spec.seed}
    return {**source, "sample": sample} if spec.documents else source


def _texts_only(documents: Iterable[str], spec: TextSpec) -> Iterator[str]:
    """Yield the documents of a source, which may be somebody else's, as long as they are texts."""
    for number, document in enumerate(documents, start=1):
        if not isinstance(document, str):
            raise ConfigurationError(
                f"{text_name(spec)}: its document {number} is a {type(document).__name__}, not a str. Correct what the "
                f"text source {spec.provider} returns."
            )
        try:
            document.encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError(
                f"{text_name(spec)}: its document {number} holds half of a surrogate pair at character {error.start}. "
                f"Correct what the text source {spec.provider} returns."
            ) from error
        yield document
