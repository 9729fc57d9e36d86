"""A text source from outside, as a user would write one: stories of words that the suite file lists.

::

    [text]
    provider = "stories"
    words = ["owl", "moss", "tin", "ember"]
    length = 60
    documents = 500
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.plan.text_sources import TextSource


def stories(spec: TextSpec) -> Iterator[str]:
    words, length = spec.options["words"], spec.options["length"]
    if not isinstance(length, int) or length < 1:
        raise ConfigurationError(f"text.length: {length} words make no story. Give a number from 1 up.")
    uniform = Random(spec.seed)
    for _ in range(spec.documents):
        yield " ".join(uniform.choice(words) for _ in range(length))


STORIES = TextSource(
    "stories", stories, needs=("words", "documents"), takes=("length", "seed"), defaults={"length": 60}
)


def pytest_proofpack_register(registry: Any) -> None:
    registry.text_sources.register(STORIES)
