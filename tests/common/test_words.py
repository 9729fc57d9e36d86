from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.common.words import data_size, memory_size, printable, shortened, shown


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain naïve 日本", "plain naïve 日本"),
        ("a\x1b[31mb\n", r"a\x1b[31mb\x0a"),
        ("right\u202eleft", r"right\u202eleft"),
        ("\U000e0001", r"\U000e0001"),
        ("\udc80", r"\udc80"),
    ],
)
def test_nothing_moves_the_cursor_or_turns_text_around(text: str, safe: str) -> None:
    assert printable(text) == safe
    assert safe.isprintable()


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


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = f"certs/{'x' * 1000}: does not fit"
    assert shortened(text, 2000) == text
    assert shortened(text, 60).startswith("certs/xxx")
    assert shortened(text, 60).endswith("x: does not fit")
    assert len(shortened(text, 60)) == 60 + len(" ... ")
