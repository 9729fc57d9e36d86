"""A file of JSON objects, one document a line."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_proofpack.common.strict_json import parse_json
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.plan.text_sources import TextSource
from pytest_proofpack.text.local_files import text_file, unreadable


def load(spec: TextSpec) -> Iterator[str]:
    """Yield the text in the field ``spec.field`` of every line of the file ``spec.path`` that is not blank."""
    path = text_file(spec)
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _document(line, spec.field, f"{path}: line {number}")
    except OSError as error:
        raise unreadable(path, error) from error


def _document(line: bytes, field: str, source: str) -> str:
    try:
        record = parse_json(line, source)
    except FormatError as error:
        raise ConfigurationError(f"{error}. Every line must hold one JSON object.") from error
    text = record.get(field)
    if not isinstance(text, str):
        problem = f"the field {field!r} is no string" if field in record else f"there is no field {field!r}"
        raise ConfigurationError(f"{source}: {problem}. Every line must hold its text there; check the field's name.")
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
