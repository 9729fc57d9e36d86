from __future__ import annotations

import math
import struct
from enum import IntEnum

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_proofpack.common.canonical import NotPlainError, plain_canonical

SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text() | st.floats(allow_nan=False)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


class Number(IntEnum):
    ONE = 1


@settings(max_examples=300, derandomize=True, deadline=None)
@given(VALUES)
def test_is_what_the_package_writes(value: object) -> None:
    try:
        expected = rfc8785.dumps(value)  # type: ignore[arg-type]
    except ValueError:  # an infinity, half of a surrogate pair
        with pytest.raises((NotPlainError, UnicodeEncodeError)):
            plain_canonical(value).encode()
    else:
        assert plain_canonical(value).encode() == expected


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(st.binary(min_size=8, max_size=8))
def test_every_float_is_written_as_ecmascript_does(bits: bytes) -> None:
    (value,) = struct.unpack("d", bits)
    if math.isfinite(value):
        assert plain_canonical(value).encode() == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [-0.0, 1e16, 1e21, 1e-4, 1e-5, 1e-6, 1e-7, 9007199254740993.0, 1e22, 5e-324])
def test_where_python_and_ecmascript_differ(value: float) -> None:
    assert plain_canonical([value]).encode() == rfc8785.dumps([value])


@pytest.mark.parametrize("value", [2**53, -(2**53), math.nan, math.inf, (1,), Number.ONE, {1: 2}, {1}, b""])
def test_anything_else_is_left_to_the_package(value: object) -> None:
    with pytest.raises(NotPlainError):
        plain_canonical(value)


def test_keys_are_sorted_as_utf_16() -> None:
    assert plain_canonical({"\U0001f600": 1, "\uff61": 2, "a": 3}) == '{"a":3,"\U0001f600":1,"\uff61":2}'
