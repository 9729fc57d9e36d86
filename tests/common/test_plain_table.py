"""Tables for terminals: as wide as they have to be, or as there is room for."""

from __future__ import annotations

from pytest_proofpack.common.plain_table import columns_of, folded, plain_table

HEADINGS = ("model", "edit", "demand", "ratio", "limit")
ROWS = (("acme/a", "one", "must pass", "1.01", "1.1"), ("", "another", "must fail", "12.5", "1.1"))


def lines(width: int | None) -> list[str]:
    return list(plain_table(HEADINGS, ROWS, {3, 4}, width=width, dispensable=(0, 2, 4)))


def test_all_of_it_where_there_is_room() -> None:
    whole = [
        "model   edit     demand     ratio  limit",
        "acme/a  one      must pass   1.01    1.1",
        "        another  must fail   12.5    1.1",
    ]
    assert lines(None) == lines(40) == whole


def test_what_says_the_same_everywhere_goes_first_and_is_told_below() -> None:
    assert lines(39) == [
        "edit     demand     ratio  limit",
        "one      must pass   1.01    1.1",
        "another  must fail   12.5    1.1",
        "no room for: model (acme/a)",
    ]
    assert lines(20) == [
        "edit     ratio",
        "one       1.01",
        "another   12.5",
        "no room for: model",
        "  (acme/a), demand,",
        "  limit (1.1)",
    ]


def test_the_first_column_names_things_and_stays_where_they_differ() -> None:
    rows = (("acme/a", "must pass"), ("acme/b", "must pass"))
    found = list(plain_table(("model", "demand"), rows, width=5, dispensable=(0, 1)))
    assert found[:3] == ["model", "acme/a", "acme/b"]


def test_where_names_differ_each_stands_above_its_rows_before_anything_is_left_out() -> None:
    rows = (("acme/a", "one", "1.01", "1.1"), ("acme/a", "two", "1.02", "1.1"), ("acme/b", "one", "12.5", "1.3"))

    def found(width: int) -> list[str]:
        return list(plain_table(("model", "edit", "ratio", "limit"), rows, {2, 3}, width=width, dispensable=(0, 3)))

    assert found(26)[1] == "acme/a  one    1.01    1.1"
    titled = ["  edit  ratio  limit", "acme/a", "  one    1.01    1.1", "  two    1.02    1.1", "acme/b"]
    assert found(25) == [*titled, "  one    12.5    1.3"]
    assert found(19) == [
        *("  edit  ratio", "acme/a", "  one    1.01", "  two    1.02", "acme/b", "  one    12.5"),
        *("no room for: limit",),
    ]


def test_wide_characters_take_two_columns() -> None:
    rows = (("日本", "1.01"), ("acme", "12.5"))
    assert list(plain_table(("model", "ratio"), rows, {1}))[1:] == ["日本    1.01", "acme    12.5"]


def test_no_word_of_a_folded_line_comes_to_the_left_of_its_indent() -> None:
    for line in (
        f"by {'x' * 200} and y",
        f"by {'日' * 50}",
        f"    {'x' * 500}",
        f"stated        {'a b ' * 100}{'c' * 90}",
    ):
        for width in (40, 80):
            first, *further = folded(line, width, 27)
            assert further
            assert max(map(columns_of, (first, *further))) <= width
            assert all(part.startswith("  ") for part in further)
            assert "".join((first, *further)).replace(" ", "") == line.replace(" ", "")


def test_a_word_that_fits_on_a_line_of_its_own_is_kept_whole() -> None:
    assert folded(f"attestation   passed       attested by key {'a' * 64}, pinned", 80, 27)[1].strip() == "a" * 64 + ","
