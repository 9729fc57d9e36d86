"""The header of a GGUF file: what it says, and that nothing in it is believed before it is compared with bounds."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from gguf.quants import _type_traits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.gguf_header import MAX_KEYS, GgufHeader, read_gguf_header
from pytest_proofpack.models.gguf_types import BLOCK_TYPES, file_type_name

U32, TEXT, ARRAY = 4, 8, 9


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


ARCHITECTURE = key("general.architecture", TEXT, text("llama"))
BLOCKS = key("llama.block_count", U32, struct.pack("<I", 1))
WIDTH = key("llama.embedding_length", U32, struct.pack("<I", 32))


def tensor(name: str = "token_embd.weight", dims: tuple[int, ...] = (32, 4), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file_of(
    keys: tuple[bytes, ...] = (ARCHITECTURE, BLOCKS, WIDTH),
    tensors: tuple[bytes, ...] = (tensor(),),
    *,
    begin: bytes = b"GGUF\3\0\0\0",
    counts: tuple[int, int] | None = None,
    data: int = 512,
) -> bytes:
    """Return a file; one tensor of 4 times 32 numbers, unless told."""
    head = begin + struct.pack("<QQ", *(counts or (len(tensors), len(keys)))) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def read(raw: bytes) -> GgufHeader:
    descriptor = os.memfd_create("test")
    try:
        os.write(descriptor, raw)
        return read_gguf_header(descriptor)
    finally:
        os.close(descriptor)


def test_what_it_says() -> None:
    numbers = key("a.list", ARRAY, struct.pack("<IQ3I", U32, 3, 1, 2, 3))
    words = key("a.words", ARRAY, struct.pack("<IQ", TEXT, 2) + text("one") + text("two"))
    header = read(file_of((ARCHITECTURE, BLOCKS, numbers, words)))
    assert header.values == {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "a.list": [1, 2, 3],
        "a.words": 2,
    }
    own = header.tensors["token_embd.weight"]
    assert (own.shape, own.type.name, own.start, own.end) == ((4, 32), "F32", header.data, header.data + 512)
    assert (header.architecture, header.own("block_count"), header.own("other")) == ("llama", 1, None)


HUGE = 2**63
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "not one": (lambda: file_of(begin=b"GGML\3\0\0\0"), "does not begin with GGUF"),
    "empty": (lambda: b"", "its header does not end"),
    "big-endian": (lambda: file_of(begin=b"GGUF\0\0\0\3"), "is big-endian"),
    "old": (lambda: file_of(begin=b"GGUF\1\0\0\0"), "is of version 1"),
    "tensors": (lambda: file_of(counts=(HUGE, 3)), f"would have {HUGE} tensors"),
    "keys": (lambda: file_of(counts=(1, MAX_KEYS + 1)), f"{MAX_KEYS + 1} keys, more than the {MAX_KEYS}"),
    "fewer keys": (lambda: file_of(counts=(1, 4000)), "."),
    "long text": (lambda: file_of((key("a", TEXT, struct.pack("<Q", HUGE)),)), f"{HUGE} bytes of the text of a"),
    "text beyond": (lambda: file_of((key("a", TEXT, struct.pack("<Q", 99_999)),)), "header does not end by byte"),
    "no text": (lambda: file_of((key("a", TEXT, text(b"\xff\xfe")),)), "the text of a is not UTF-8"),
    "long array": (lambda: file_of((key("a", ARRAY, struct.pack("<IQ", U32, HUGE)),)), "elements of arrays"),
    "array beyond": (lambda: file_of((key("a", ARRAY, struct.pack("<IQ", 0, 10**6)),)), "header does not end"),
    "nested": (lambda: file_of((key("a", ARRAY, struct.pack("<IQ", ARRAY, 1)),)), "array of values of the type 9"),
    "kind": (lambda: file_of((key("a", 13, b""),)), "unknown type 13"),
    "twice": (lambda: file_of((ARCHITECTURE, ARCHITECTURE)), "stands there twice"),
    "architecture": (lambda: file_of((BLOCKS,)), "does not say which architecture"),
    "alignment": (
        lambda: file_of((ARCHITECTURE, key("general.alignment", U32, struct.pack("<I", 33)))),
        "aligned to 33",
    ),
    "none": (lambda: file_of(tensors=()), "holds no tensors"),
    "dimensions": (lambda: file_of(tensors=(tensor(dims=(1,) * 5),)), "5 dimensions"),
    "no values": (lambda: file_of(tensors=(tensor(dims=(32, 0)),)), "cannot be of F32"),
    "too many values": (lambda: file_of(tensors=(tensor(dims=(HUGE, HUGE)),)), "cannot be of F32"),
    "half a block": (lambda: file_of(tensors=(tensor(dims=(31, 4), kind=8),)), r"cannot be of Q8_0 .* \[4, 31\]"),
    "type": (lambda: file_of(tensors=(tensor(kind=77),)), "of the type 77, which nothing here dequantizes"),
    "beyond": (lambda: file_of(tensors=(tensor(offset=32),)), r"takes the bytes .* of"),
    "far beyond": (lambda: file_of(tensors=(tensor(offset=2**64 - 32),)), r"takes the bytes"),
    "cut short": (lambda: file_of(data=511), "takes the bytes"),
    "aslant": (lambda: file_of(tensors=(tensor(offset=4),), data=516), "not aligned to 32"),
    "two of a name": (lambda: file_of(tensors=(tensor(), tensor())), "stands there twice"),
    "over another": (lambda: file_of(tensors=(tensor(), tensor("b", offset=256)), data=999), "b lies over another"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(make())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((ARCHITECTURE, key("llama.block_count", U32, struct.pack("<I", 2**31)), WIDTH), "block_count is 2147483648"),
        ((ARCHITECTURE, WIDTH), "its block_count is None"),
        ((ARCHITECTURE, BLOCKS, WIDTH, key("general.type", TEXT, text("adapter"))), "holds no model but 'adapter'"),
        ((ARCHITECTURE, BLOCKS, key("llama.embedding_length", U32, struct.pack("<I", 2**30))), "embedding_length is"),
    ],
)  # fmt: skip
def test_a_model_larger_than_the_file_is_never_built(tmp_path: Path, keys: tuple[bytes, ...], message: str) -> None:
    (tmp_path / "a.gguf").write_bytes(file_of(keys))
    with pytest.raises(ConfigurationError, match=rf"a\.gguf: not a GGUF file that can be read \(.*{message}"):
        CheckpointFiles.at(tmp_path / "a.gguf").headers  # noqa: B018


WHOLE = file_of(
    (ARCHITECTURE, BLOCKS, WIDTH, key("a.words", ARRAY, struct.pack("<IQ", TEXT, 2) + text("one") + text("two"))),
    (tensor(), tensor("blk.0.ffn_up.weight", (32, 2), 8, 512)),
    data=1024,
)


@settings(max_examples=300, deadline=500, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(WHOLE)) | st.just(len(WHOLE)),
)
def test_whatever_the_bytes_are_they_are_read_within_bounds_or_refused(
    changes: list[tuple[int, int]], length: int
) -> None:
    raw = bytearray(WHOLE)
    for place, value in changes:
        raw[place] = value
    try:
        header = read(bytes(raw[:length]))
    except FormatError:
        return
    assert all(header.data <= own.start < own.end <= length for own in header.tensors.values())


def test_the_types_are_those_of_the_package() -> None:
    sizes = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {number: tuple(kind) for number, kind in BLOCK_TYPES.items()}.items() <= sizes.items()
    assert {kind.name for kind in BLOCK_TYPES.values()} <= {"F32", "F16", *(kind.name for kind in _type_traits)}


@pytest.mark.parametrize(
    ("stated", "held", "expected"),
    [
        (15, {"Q4_K": 9, "Q6_K": 1}, "Q4_K_M"),
        (14, {"Q4_K": 9}, "Q4_K_S"),
        (3, {"Q4_1": 9, "Q8_0": 5}, "Q4_1"),
        (None, {"Q5_0": 1, "Q8_0": 5}, "Q8_0"),
        (15, {"Q5_0": 9, "Q8_0": 5}, "Q5_0"),  # too narrow for what it says
        (0, {"Q4_0": 9}, "Q4_0"),  # it says float32
        (1024, {"F16": 9}, "F16"),
        ("Q4_K_M", {"Q4_0": 9}, "Q4_0"),
    ],
)
def test_how_a_file_is_quantized(stated: object, held: dict[str, int], expected: str) -> None:
    tensors = [(name, (32, rows)) for name, rows in held.items()]
    assert file_type_name(stated, [*tensors, ("F32", (10**6,))]) == expected
