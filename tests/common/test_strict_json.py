"""Strict JSON: one canonical form, and a reader that refuses what a strict reader should."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_proofpack.common.strict_json import (
    MAX_DEPTH,
    canonical_json,
    compact_json,
    parse_json,
    pretty_json,
    read_json,
    sha256_of,
)
from pytest_proofpack.errors import FormatError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**290), max_value=10**290)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


EXACT_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=1 - 2**53, max_value=2**53 - 1)
    | st.floats(min_value=1 - 2**53, max_value=2**53 - 1)  # larger ones read as integers
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
)
EXACT_VALUES = st.recursive(
    EXACT_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
)


class TestCanonicalForm:
    def test_keys_are_sorted_nothing_is_padded_and_text_stays_text(self) -> None:
        assert canonical_json({"b": [1, 2.5, None], "a": "ü"}) == '{"a":"ü","b":[1,2.5,null]}'

    def test_the_digest_can_be_recomputed_by_plain_tools(self) -> None:
        value = {"z": 0.1, "a": ["ü", True]}
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert sha256_of(value) == hashlib.sha256(text.encode("utf-8")).hexdigest()

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            # RFC 8785, section 3.2.2 and appendix B.
            (
                {"numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 1e-27], "literals": [None, True, False]},
                '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}',
            ),
            ([0.0, -0.0, 1.0, 1e21, 1e-7, 5e-324, 9007199254740991], "[0,0,1,1e+21,1e-7,5e-324,9007199254740991]"),
            ({"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\xf6": 7},
             '{"\\r":2,"1":4,"\x80":6,"\xf6":7,"\u20ac":1,"\U0001f600":5,"\ufb33":3}'),
        ],
    )  # fmt: skip
    def test_numbers_and_the_order_of_keys_are_those_of_the_standard(self, value: object, expected: str) -> None:
        assert canonical_json(value) == expected

    @pytest.mark.parametrize("number", [2**53, -(2**53), 2**70, 10**5000], ids=["first", "negative", "large", "huge"])
    def test_integers_that_json_numbers_cannot_hold_are_refused_in_our_words(self, number: int) -> None:
        for write in (canonical_json, sha256_of):
            with pytest.raises(FormatError, match=r"canonical JSON: an integer lies beyond 2\*\*53 - 1"):
                write({"a": [number]})

    def test_keys_that_are_no_strings_are_refused(self) -> None:
        with pytest.raises(FormatError, match="strict JSON"):
            canonical_json({1: 2})

    def test_the_digest_does_not_depend_on_the_order_of_keys(self) -> None:
        assert sha256_of({"a": 1, "b": 2}) == sha256_of({"b": 2, "a": 1}) != sha256_of({"a": 2, "b": 1})

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1, 2}, object()])
    def test_what_json_cannot_hold_is_refused(self, value: object) -> None:
        for write in (canonical_json, compact_json, pretty_json, sha256_of):
            with pytest.raises(FormatError, match="strict JSON"):
                write({"a": [value]})

    def test_half_of_a_surrogate_pair_has_no_digest(self) -> None:
        for value in ({"a": "\ud800"}, {"\ud800": "a"}):
            with pytest.raises(FormatError, match="UTF-8"):
                sha256_of(value)

    @settings(max_examples=50, deadline=None)
    @given(VALUES)
    def test_what_is_written_is_read_back_exactly(self, value: object) -> None:
        for write in (compact_json, pretty_json):
            read = parse_json(write({"value": value}).encode(), "x")["value"]
            assert compact_json(read) == compact_json(value)

    @settings(max_examples=50, deadline=None)
    @given(EXACT_VALUES)
    def test_the_canonical_form_keeps_every_value_and_of_numbers_the_value_only(self, value: object) -> None:
        read = parse_json(canonical_json({"value": value}).encode(), "x")["value"]
        assert read == value
        assert canonical_json(read) == canonical_json(value)

    def test_text_for_people_is_indented_and_ends_a_line(self) -> None:
        assert pretty_json({"b": 1, "a": "ü"}) == '{\n  "a": "ü",\n  "b": 1\n}\n'


class TestParsing:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b'{"a": 1} x', "not valid JSON"),
            (b'{"a": 01}', "not valid JSON"),
            (b"{'a': 1}", "not valid JSON"),
            (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
            (b'{"a": "\xff"}', "not UTF-8 text .* at byte 7"),
            (b"[]", "expected a JSON object at the top, found list"),
            (b'"a"', "found str"),
            (b'{"a": {"k": 1, "k": 1}}', "'k' stands twice"),
            (b'{"a": NaN}', "NaN is not JSON"),
            (b'{"a": -Infinity}', "-Infinity is not JSON"),
            (b'{"a": 1e999}', "the number 1e999 is out of range"),
            (b'{"a": ' + b"9" * 400 + b"}", "the number 9+ is out of range"),
            (b'{"a": ' + b"9" * 5000 + b"}", "out of range"),
            (b'{"a": ["\\ud800"]}', "surrogate"),
            (b'{"\\uDFFF": 1}', "surrogate"),
        ],
    )
    def test_a_bad_document_is_refused_and_named(self, data: bytes, expected: str) -> None:
        with pytest.raises(FormatError, match=f"^some.json: .*{expected}"):
            parse_json(data, "some.json")

    def test_a_whole_surrogate_pair_is_a_character(self) -> None:
        assert parse_json(b'{"a": "\\ud83d\\ude00"}', "x") == {"a": "\N{GRINNING FACE}"}

    def test_depth_is_bounded_and_brackets_in_strings_do_not_count(self) -> None:
        def nested(depth: int) -> bytes:
            return b'{"a": "' + b"[" * 100 + b'\\"[", "b": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

        assert parse_json(nested(MAX_DEPTH), "x")["a"] == "[" * 100 + '"['
        with pytest.raises(FormatError, match=f"more than {MAX_DEPTH} levels"):
            parse_json(nested(MAX_DEPTH + 1), "x")

    def test_siblings_are_not_depth(self) -> None:
        assert len(parse_json(b'{"a": [' + b"[]," * 1000 + b"[]]}", "x")["a"]) == 1001

    def test_a_bomb_of_brackets_is_refused(self) -> None:
        with pytest.raises(FormatError, match="levels deep"):
            parse_json(b'{"a":' * 100_000, "x")

    def test_length_is_bounded(self) -> None:
        assert parse_json(b'{"a":1}', "x", max_bytes=7) == {"a": 1}
        with pytest.raises(FormatError, match="7 bytes, more than the 6 allowed"):
            parse_json(b'{"a":1}', "x", max_bytes=6)

    @pytest.mark.parametrize("end", ["", "\\"])
    def test_an_unfinished_string_of_escaped_quotes_does_not_take_for_ever(self, end: str) -> None:
        # A regular expression that backtracks would need hours.
        bomb = '"' + '\\"' * 1_000_000 + end
        program = (
            "import sys; from pytest_proofpack.common.strict_json import parse_json; "
            "parse_json(sys.stdin.buffer.read(), 'x')"
        )
        result = subprocess.run(
            [sys.executable, "-c", program], input=bomb.encode(), capture_output=True, timeout=60, check=False
        )
        assert result.stderr.strip().splitlines()[-1].startswith(b"pytest_proofpack.errors.FormatError: x: not valid")


class TestReading:
    def test_errors_name_the_file_but_not_its_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match=r"^missing.json: cannot be read \(No such file or directory\)$"):
            read_json(tmp_path / "missing.json")
        with pytest.raises(FormatError, match=r"^the suite: cannot be read"):
            read_json(tmp_path, "the suite")

    def test_a_long_file_is_refused_unread(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(b'{"a": 1}')
        assert read_json(path, max_bytes=8) == {"a": 1}
        with pytest.raises(FormatError, match=r"a.json: 8 bytes, more than the 7 allowed"):
            read_json(path, max_bytes=7)
