"""Tables for terminals: as wide as they have to be, or as there is room for."""

from __future__ import annotations

from pytest_proofpack.common.plain_table import plain_table

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
