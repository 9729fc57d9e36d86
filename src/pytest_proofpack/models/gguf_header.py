"""The header of a GGUF file, read within bounds before anything else reads the file.

Whoever made the file chose every number in it: how many keys there are, how long a text is, where a tensor lies. Here
each is compared with a bound and with the file's size before it is used; nothing is mapped, and of arrays only their
length is kept, unless they are short. transformers and the ``gguf`` package, which trust the numbers, only ever get a
file whose header has passed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from pytest_proofpack.errors import FormatError
from pytest_proofpack.models.gguf_types import BLOCK_TYPES, BlockType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 100_000_000
"""As safetensors bounds its own; the largest vocabularies of today take a tenth of it."""
MAX_KEYS = 4096
MAX_TENSORS = 200_000
MAX_NAME_BYTES = 4096
MAX_TEXT_BYTES = 1 << 22
MAX_ELEMENTS = 1 << 22
"""Of all arrays together: a vocabulary of a million tokens with its scores, types and merges."""
MAX_DIMENSIONS = 4
_MAX_VALUES = 1 << 48
_SHORT = 4096
_LARGEST_ALIGNMENT = 1 << 16
_PIECE = 1 << 20
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of values of a fixed size, by number, as :mod:`struct` calls them."""


class GgufTensor(NamedTuple):
    """A tensor: its shape in torch's order, its type, and the bytes of the file from ``start`` up to ``end``."""

    shape: tuple[int, ...]
    type: BlockType
    start: int
    end: int


@dataclass(frozen=True)
class GgufHeader:
    """What the header of a file says.

    Attributes:
        values: by key: numbers, texts, short lists of numbers; of other arrays their length.
        tensors: by name, in the order of the file.
        data: where the tensors begin, in bytes; the header is what lies before.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    data: int

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the architecture."""
        name: str = self.values["general.architecture"]
        return name

    def own(self, key: str) -> Any:
        """Return a value under a key of the architecture's; None if there is none."""
        return self.values.get(f"{self.architecture}.{key}")


def read_gguf_header(source: Path | int) -> GgufHeader:
    """Return what the header of a file says, given by its path or an open descriptor.

    Raises:
        FormatError: it is no GGUF file, or not whole, or beyond the bounds; says what is wrong.
        OSError: it cannot be read.
    """
    if isinstance(source, int):
        return _read(source)
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> GgufHeader:
    size = os.fstat(descriptor).st_size
    cursor = _Cursor(descriptor, min(size, MAX_HEADER_BYTES))
    if cursor.take(4) != MAGIC:
        raise FormatError("it does not begin with GGUF")
    version = cursor.number("I")
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise FormatError("it is big-endian, which nothing here reads")
    if version not in VERSIONS:
        raise FormatError(f"it is of version {version} of GGUF; versions {VERSIONS[0]} and {VERSIONS[1]} are read")
    tensors = _bounded(cursor.number("Q"), MAX_TENSORS, "tensors")
    values = _read_values(cursor, _bounded(cursor.number("Q"), MAX_KEYS, "keys"))
    entries = [_read_entry(cursor) for _ in range(tensors)]
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise FormatError(f"its tensors would be aligned to {alignment!r}")
    data = -(-cursor.position // alignment) * alignment
    return GgufHeader(values, _placed(entries, data, alignment, size), data)


def _read_values(cursor: _Cursor, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    elements = 0
    for _ in range(count):
        key = cursor.text(MAX_NAME_BYTES, "a key")
        kind = cursor.number("I")
        if key in values:
            raise FormatError(f"the key {key[:80]!r} stands there twice")
        if kind == _ARRAY:
            kind, length = cursor.number("I"), cursor.number("Q")
            elements = _bounded(elements + length, MAX_ELEMENTS, "elements of arrays")
            values[key] = _read_array(cursor, key, kind, length)
        elif kind == _STRING:
            values[key] = cursor.text(MAX_TEXT_BYTES, f"the text of {key[:80]}")
        elif kind in _SCALARS:
            values[key] = cursor.number(_SCALARS[kind])
        else:
            raise FormatError(f"the value of {key[:80]!r} is of the unknown type {kind}")
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not architecture.isascii() or not 0 < len(architecture) <= 64:
        raise FormatError("general.architecture does not say which architecture it is of")
    return values


def _read_array(cursor: _Cursor, key: str, kind: int, length: int) -> Any:
    """Return the numbers of a short array; of other arrays, whose elements are only walked over, the length."""
    if kind == _STRING:
        for _ in range(length):
            cursor.skip(_bounded(cursor.number("Q"), MAX_TEXT_BYTES, f"bytes of a text of {key[:80]}"))
        return length
    if kind not in _SCALARS:
        raise FormatError(f"{key[:80]!r} is an array of values of the type {kind}, which nothing here reads")
    form = _SCALARS[kind]
    if length <= _SHORT:
        return [cursor.number(form) for _ in range(length)]
    cursor.skip(length * struct.calcsize(f"<{form}"))
    return length


def _read_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], BlockType, int]:
    """Return name, shape in torch's order, type and offset of a tensor; its size is not beyond the bounds."""
    name = cursor.text(MAX_NAME_BYTES, "the name of a tensor")
    count = _bounded(cursor.number("I"), MAX_DIMENSIONS, f"dimensions of {name[:80]}")
    shape = tuple(reversed([cursor.number("Q") for _ in range(count)]))
    kind, offset = cursor.number("I"), cursor.number("Q")
    if kind not in BLOCK_TYPES:
        raise FormatError(f"{name[:80]} is a tensor of the type {kind}, which nothing here dequantizes")
    if not shape or not all(shape) or prod(shape) > _MAX_VALUES or shape[-1] % BLOCK_TYPES[kind].values:
        raise FormatError(f"{name[:80]} cannot be of {BLOCK_TYPES[kind].name} and of the shape {list(shape)}")
    return name, shape, BLOCK_TYPES[kind], offset


def _placed(
    entries: list[tuple[str, tuple[int, ...], BlockType, int]], data: int, alignment: int, size: int
) -> dict[str, GgufTensor]:
    """Return where the tensors lie: inside of the file, aligned, and none over another."""
    tensors: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in entries:
        start, length = data + offset, prod(shape) // kind.values * kind.bytes
        if name in tensors:
            raise FormatError(f"the tensor {name[:80]!r} stands there twice")
        if offset % alignment:
            raise FormatError(f"{name[:80]} begins at {start}, which is not aligned to {alignment}")
        if start + length > size:
            raise FormatError(f"{name[:80]} takes the bytes {start} to {start + length} of {size}")
        tensors[name] = GgufTensor(shape, kind, start, start + length)
    if not tensors:
        raise FormatError("it holds no tensors")
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
        if tensor.start < end:
            raise FormatError(f"{name[:80]} lies over another tensor")
        end = tensor.end
    return tensors


def _bounded(count: int, most: int, what: str) -> int:
    if count > most:
        raise FormatError(f"it would have {count} {what}, more than the {most} allowed")
    return count


class _Cursor:
    """Reads a file forward, a piece at a time, and not beyond a bound."""

    def __init__(self, descriptor: int, end: int) -> None:
        self.position = 0
        self._descriptor = descriptor
        self._end = end
        self._piece = b""
        self._begin = 0

    def number(self, form: str) -> Any:
        """Return a number of one of :mod:`struct`'s forms."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def text(self, most: int, what: str) -> str:
        """Return a text of at most so many bytes.

        Raises:
            FormatError: it is longer, or not UTF-8.
        """
        try:
            return self.take(_bounded(self.number("Q"), most, f"bytes of {what}")).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{what} is not UTF-8") from error

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        self._require(count)
        begin = self.position - self._begin
        if begin < 0 or begin + count > len(self._piece):
            self._piece = os.pread(self._descriptor, max(count, _PIECE), self.position)
            self._begin, begin = self.position, 0
        found = self._piece[begin : begin + count]
        if len(found) < count:
            raise FormatError(f"it ends at byte {self.position + len(found)}, within its header")
        self.position += count
        return found

    def skip(self, count: int) -> None:
        """Leave out bytes, which are there."""
        self._require(count)
        self.position += count

    def _require(self, count: int) -> None:
        if self.position + count > self._end:
            raise FormatError(f"its header does not end by byte {self._end}")
