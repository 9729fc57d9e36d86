from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_proofpack.common.words import (
    data_size,
    duration,
    error_line,
    first_line,
    first_of,
    limit,
    memory_size,
    message_lines,
    printable,
    shortened,
    shown,
    time_left,
)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain naïve 日本", "plain naïve 日本"),
        ("a\x1b[31mb\n", r"a\x1b[31mb\x0a"),
        ("right\u202eleft", r"right\u202eleft"),
        ("\U000e0001", r"\U000e0001"),
        ("\udc80", r"\udc80"),
        ("a\u2800b\u3164c\ufe0f\u034f\U000e0100", r"a\u2800b\u3164c\ufe0f\u034f\U000e0100"),
        ("\u05d0\u0661 1.02", r"\u05d0\u0661 1.02"),
    ],
)
def test_nothing_moves_the_cursor_or_turns_text_around_or_hides(text: str, safe: str) -> None:
    assert printable(text) == safe == printable(safe)
    assert safe.isprintable()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("::error title=x::good", r"\x3a:error title=x::good"),
        ("  ::add-mask::a", r"  \x3a:add-mask::a"),
        ("x ##vso[task.setvariable]", r"x \x23#vso[task.setvariable]"),
        ("##[group]###[a]##teamcity[a]", r"\x23#[group]#\x23#[a]\x23#teamcity[a]"),
        ("acme/a:b::c", "acme/a:b::c"),
        (":a", ":a"),
        ("### Heading [1]", "### Heading [1]"),
        ("a::b ::c", "a::b ::c"),
    ],
)
def test_nothing_is_a_command_to_a_ci_system_and_honest_names_stay(text: str, safe: str) -> None:
    assert printable(text) == safe == printable(safe)


def test_escapes_in_json_say_the_same_to_whoever_reads_it() -> None:
    text = "\U000e0001\u202e\x7f\u05d0##vso[a]\\##[b]"
    safe = printable(json.dumps({"a": text}, ensure_ascii=False), as_json=True)
    assert "##" not in safe
    assert safe.isascii()
    assert json.loads(safe) == {"a": text}


def test_only_the_first_line_of_a_message_begins_where_ours_do() -> None:
    assert message_lines("2 things:\n  one\nVERIFIED\n::stop-commands::a") == [
        *("2 things:", "  one", "  VERIFIED", r"  \x3a:stop-commands::a"),
    ]


def test_further_characters_can_be_escaped() -> None:
    assert printable("a|b`c", also="|`") == r"a\x7cb\x60c"


def test_paths_are_shown_as_one_would_type_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "run" / "pack") == "run/pack"
    assert shown(tmp_path.parent) == str(tmp_path.parent)


def test_sizes_for_people() -> None:
    assert [data_size(size) for size in (0, 999, 1000, 14_483_464_192, 3e15)] == [
        *("0 bytes", "999 bytes", "1 kB", "14.5 GB", "3e+03 TB"),
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 GiB"), (2**22, "0.0039 GiB"), (2**29, "0.5 GiB"), (80 * 2**30, "80.0 GiB"), (144.6e9, "134.7 GiB")],
)
def test_memory_is_told_in_the_unit_of_its_option(size: float, text: str) -> None:
    assert memory_size(size) == text


def test_a_limit_is_written_as_it_was_set() -> None:
    values = (1.1, 1.00004, 100 * (1.1 - 1), 2, 2.0, 0.00025)
    assert [limit(value) for value in values] == ["1.1", "1.00004", "10", "2", "2", "0.00025"]


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = f"certs/{'x' * 1000}: does not fit"
    assert shortened(text, 2000) == text
    assert shortened(text, 60).startswith("certs/xxx")
    assert shortened(text, 60).endswith("x: does not fit")
    assert len(shortened(text, 60)) == 60 + len(" ... ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3.0, "less than a second left"),
        (0.99, "less than a second left"),
        (1.0, "about 1 s left"),
        (1.2, "about 2 s left"),
        (90.0, "about 90 s left"),
        (90.1, "about 2 min left"),
        (121.0, "about 3 min left"),
        (5400.0, "about 90 min left"),
        (5401.0, "about 1.6 h left"),
    ],
)
def test_what_is_left_is_never_said_to_be_less(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


def test_a_duration_is_told_to_the_nearest_and_is_not_nothing() -> None:
    assert [duration(seconds) for seconds in (0.0, 0.04, 0.4, 1.4, 89.0, 100.0, 6000.0)] == [
        "0 s", "0.04 s", "0.4 s", "1 s", "89 s", "2 min", "1.7 h",
    ]  # fmt: skip


def test_of_many_the_first_are_named_and_the_others_counted() -> None:
    assert first_of(["a", "b"], 2) == "a, b"
    assert first_of(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert first_of(["a", "b", "c"], 2, "; ") == "a; b; and 1 more"


def test_an_error_of_others_is_told_on_one_line() -> None:
    error = ValueError("\nno such key\n  in a file " + "x" * 1000)
    assert (first_line(error), error_line(error)) == ("no such key", "ValueError: no such key")
    assert len(first_line(OSError("x" * 1000))) == 300
    assert first_line(RuntimeError("Error(s) in loading:\n\tsize mismatch for a.\n\tfor b.")) == (
        "Error(s) in loading: size mismatch for a."
    )
