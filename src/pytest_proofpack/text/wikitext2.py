"""WikiText-2, a data set of the hub whose rows are the lines of a text."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.plan.text_sources import DATASET_KEYS, TextSource
from pytest_proofpack.text.local_files import dataset_texts
from pytest_proofpack.text.local_text import split_text


def load(spec: TextSpec) -> Iterator[str]:
    """Return the articles: rows are joined and split as ``local_text`` does, so both have the same documents."""
    return split_text("".join(map(_line, dataset_texts(spec))))


def _line(row: str) -> str:
    """Return the line of WikiText's own file that a row stands for: the data set has its blank lines, " ", as ""."""
    line = row or " "
    return line if line.endswith("\n") else f"{line}\n"


WIKITEXT2 = TextSource(
    name="wikitext2",
    load=load,
    takes=("dataset", *DATASET_KEYS),
    defaults={"dataset": "Salesforce/wikitext", "config": "wikitext-2-raw-v1", "split": "validation"},
    is_dataset=True,
)
