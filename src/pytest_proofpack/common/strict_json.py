"""Strict JSON: one canonical form for digests, and a reader that survives hostile input.

Digests are over the canonical form of RFC 8785 (JCS), which libraries of many languages write. In it 1 and 1.0 are one
number, and integers end at 2**53 - 1: beyond, JSON's numbers are no longer exact. Files are written as Python writes
them, so that what is read back is just what was written, an integer or a float.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import rfc8785

from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.canonical import NotPlainError, plain_canonical
from pytest_proofpack.common.reading import UnfitFileError, read_regular
from pytest_proofpack.errors import FormatError

JsonObject = dict[str, Any]

MAX_BYTES = 64 * 1024 * 1024
"""Upper bound on one document; the largest certificate we make is below 1 MB."""
MAX_DEPTH = BUDGETS.json_depth
"""Upper bound on nesting; our formats stay below 12."""

# Possessive, and an unfinished string runs to the end: one pass whatever the text, no backtracking to exploit.
_NO_BRACKETS = re.compile(r'(?:"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[^"\[\]{}]++)++', re.DOTALL)
_ONE_KIND = str.maketrans("{}", "[]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONGEST_INTEGER = 300
"""Digits of an integer that is within the range of a float for certain."""


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of ``value``, by RFC 8785.

    Raises:
        FormatError: ``value`` holds NaN, an infinity, an integer beyond 2**53 - 1, half of a surrogate pair, or
            something JSON cannot express.
    """
    try:
        return _canonical(value).decode()
    except UnicodeEncodeError as error:
        raise FormatError(f"cannot be written as UTF-8: {error.reason}") from error
    except ValueError as error:
        if isinstance(error.__cause__, UnicodeEncodeError):
            raise FormatError(f"cannot be written as UTF-8: {error.__cause__.reason}") from error
        if isinstance(error, rfc8785.CanonicalizationError) and not isinstance(error, rfc8785.IntegerDomainError):
            raise FormatError(f"cannot be written as strict JSON: {error}") from error
        # Of an integer with thousands of digits the package cannot even make its message.
        raise FormatError(
            "cannot be written as canonical JSON: an integer lies beyond 2**53 - 1, where numbers of JSON are not exact"
        ) from error


def _canonical(value: object) -> bytes:
    try:
        return plain_canonical(value).encode()
    except NotPlainError:
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # what is no JSON is refused


def compact_json(value: object) -> str:
    """Return strict JSON on one line, keys sorted, numbers as Python writes them: what files between programs hold.

    Unlike the canonical form it tells 1 from 1.0 and has room for any integer, so whatever was parsed can be written.

    Raises:
        FormatError: ``value`` holds NaN, an infinity or something JSON cannot express.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FormatError(f"cannot be written as strict JSON: {error}") from error


def pretty_json(value: object) -> str:
    """Return indented, key-sorted strict JSON with a final newline, for files that people read."""
    try:
        text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FormatError(f"cannot be written as strict JSON: {error}") from error
    return text + "\n"


def sha256_of(value: object) -> str:
    """Return the hexadecimal SHA-256 of the canonical JSON of ``value``.

    Raises:
        FormatError: as :func:`canonical_json`.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def parse_json(
    data: bytes, source: str, *, max_bytes: int = MAX_BYTES, max_values: int | None = None, constants: bool = False
) -> JsonObject:
    """Parse one JSON object, refusing everything a strict and bounded reader should.

    Args:
        data: the raw document.
        source: how error messages name the document.
        max_bytes: refuse longer documents unread.
        max_values: refuse documents of more values unparsed, as :func:`count_values` counts them.
        constants: accept NaN and infinities, which JSON does not have and many programs write.

    Raises:
        FormatError: not UTF-8, not JSON, not an object, too long, too many values, nested too deeply, a duplicate key,
            a NaN, an infinity, a number out of the range of a float, or half of a surrogate pair.
    """
    if len(data) > max_bytes:
        raise FormatError(f"{source}: {len(data)} bytes, more than the {max_bytes} allowed")
    if max_values is not None and (values := count_values(data)) > max_values:
        raise FormatError(f"{source}: {values} values, more than the {max_values} allowed")
    try:
        text = data.decode("utf-8")
        _refuse_deep_nesting(text, source)
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: _object_without_duplicates(pairs, source),
            parse_constant=float if constants else lambda name: _refuse_constant(name, source),
            parse_float=lambda digits: _finite_float(digits, source),
            parse_int=lambda digits: _bounded_integer(digits, source),
        )
        if _ESCAPED_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{source}: holds half of a surrogate pair, which is no text") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{source}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise FormatError(f"{source}: expected a JSON object at the top, found {type(value).__name__}")
    return value


def count_values(data: bytes) -> int:
    """Return an upper bound on the values in a JSON text, without parsing it: its commas and opening brackets."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def read_json(
    path: Path, source: str | None = None, *, max_bytes: int = MAX_BYTES, below: Path | None = None
) -> JsonObject:
    """Read and parse one JSON file; see :func:`parse_json`.

    Args:
        path: the file, a regular one.
        source: how error messages name it.
        max_bytes: how long it may be.
        below: a directory that somebody else made and the file lies in: no link below it is followed.

    Raises:
        FormatError: as :func:`parse_json`, or the file cannot be read.
    """
    name = source or path.name
    try:
        data = read_regular(path, max_bytes, below=below)
    except UnfitFileError as error:
        raise FormatError(f"{name}: {error.strerror}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise FormatError(f"{name}: cannot be read ({reason})") from error
    return parse_json(data, name, max_bytes=max_bytes)


def _object_without_duplicates(pairs: list[tuple[str, object]], source: str) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise FormatError(f"{source}: the key {key!r} stands twice in one object")
            seen.add(key)
    return result


def _refuse_constant(name: str, source: str) -> object:
    raise FormatError(f"{source}: {name} is not JSON")


def _finite_float(digits: str, source: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise FormatError(f"{source}: the number {digits[:40]} is out of range")
    return number


def _bounded_integer(digits: str, source: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise FormatError(f"{source}: the number {digits[:40]} is out of range")
    return int(digits)


def _refuse_deep_nesting(text: str, source: str) -> None:
    """Refuse a bomb before the parser recurses: brackets outside of strings, peeled off from within, level by level."""
    brackets = _NO_BRACKETS.sub("", text).translate(_ONE_KIND)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return
        brackets = brackets.replace("[]", "")
    if "[]" in brackets or "[" * (MAX_DEPTH + 1) in brackets:  # what is left otherwise has no partner: no JSON
        raise FormatError(f"{source}: nested more than {MAX_DEPTH} levels deep")
