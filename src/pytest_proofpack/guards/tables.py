"""Tables of columns, as certificates keep many small records, and their one reader, which trusts none of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def column_names(kind: type[DataclassInstance]) -> tuple[str, ...]:
    """Return the columns of a table with a row for each of these records: its fields, in their order.

    The column of the parameter group has been called ``family`` since the first format.
    """
    return tuple("family" if field.name == "group" else field.name for field in fields(kind))


def table_of(kind: type[DataclassInstance], records: Iterable[DataclassInstance]) -> JsonObject:
    """Return the columns of a table with a row for each of the records."""
    rows = [astuple(record) for record in records]
    return {name: [row[index] for row in rows] for index, name in enumerate(column_names(kind))}


def rows_of(table: Mapping[str, Any], where: str, names: Sequence[str], most: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table that is known to have these columns, each in their order.

    Args:
        table: the columns by name, whatever they hold.
        where: how messages name it.
        names: of the columns.
        most: rows that are allowed.

    Raises:
        FormatError: a column is no list, or they are not of one length, or too long.
    """
    columns = [table[name] for name in names]
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        raise FormatError(f"{where}: columns must be lists of one length")
    if len(columns[0]) > most:
        raise FormatError(f"{where}: more than {most} entries")
    yield from zip(*columns, strict=True)


def with_columns(table: object, where: str, names: Sequence[str]) -> Mapping[str, Any]:
    """Return a table, which must be an object with just these columns.

    Raises:
        FormatError: it is not.
    """
    if not isinstance(table, Mapping) or set(table) != set(names):
        raise FormatError(f"{where}: expected the columns {', '.join(names)}")
    return table
