"""A file of JSON objects, one document a line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from pytest_proofpack.common.strict_json import parse_json
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.plan.text_sources import TextSource
from pytest_proofpack.text.local_files import text_file, unreadable


def load(spec: TextSpec) -> Iterator[str]:
    """Yield the text in the field ``spec.field`` of every line of the file ``spec.path`` that is not blank.

    A byte order mark at the beginning is left out. NaN and infinities, which Python writes, are taken in other fields.
    """
    path = text_file(spec)
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
                if line.strip():
                    yield _document(line, spec.field, f"{path}: line {number}")
    except OSError as error:
        raise unreadable(path, error) from error


def _document(line: bytes, field: str, source: str) -> str:
    try:
        record = parse_json(line, source, constants=True)
    except FormatError as error:
        raise ConfigurationError(f"{error}. Every line must hold one JSON object.") from error
    text = record.get(field)
    if not isinstance(text, str):
        kind = "null" if text is None else "no string"
        problem = f"the field {field!r} is {kind}" if field in record else f"there is no field {field!r}"
        advice = "Delete the line." if field in record and text is None else "Check the field's name."
        raise ConfigurationError(f"{source}: {problem}. Every line must hold its text there. {advice}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{source}: the text holds half of a surrogate pair at character {error.start}. Write it as valid Unicode."
        ) from error
    return text


LOCAL_JSONL = TextSource(
    name="local_jsonl",
    load=load,
    needs=("path",),
    takes=("split", "field"),
    explains={"path": "the path of a file"},
    suffixes=(".jsonl",),
)
