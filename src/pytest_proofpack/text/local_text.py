"""A text file: articles in the form of WikiText, or else paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.plan.text_sources import TextSource
from pytest_proofpack.text.local_files import read_text, text_file

_BYTE_ORDER_MARK = "\ufeff"
_ARTICLE = re.compile(r"^(?= ?= [^=\n].* = ?$)", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def split_text(text: str) -> Iterator[str]:
    """Yield the documents of a text, with blanks around each stripped; CRLF counts as LF.

    It is split at its ``= Title =`` lines (the form of WikiText: one article, one document), or at blank lines where
    it has no such line.
    """
    text = text.removeprefix(_BYTE_ORDER_MARK).replace("\r\n", "\n")
    boundary = _ARTICLE if _ARTICLE.search(text) else _BLANK_LINES
    return (document.strip() for document in boundary.split(text))


def load(spec: TextSpec) -> Iterator[str]:
    """Return the documents of the file ``spec.path``."""
    return split_text(read_text(text_file(spec)))


LOCAL_TEXT = TextSource(
    name="local_text",
    load=load,
    needs=("path",),
    takes=("split",),
    explains={"path": "the path of a file"},
    suffixes=(".txt",),
)
