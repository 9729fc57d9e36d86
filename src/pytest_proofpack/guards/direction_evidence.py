"""The evidence of the direction guard: records of matrices and tables, as JSON and back, trusting nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import exact_mapping, mapping
from pytest_proofpack.guards.guard import Block, Rules
from pytest_proofpack.guards.spectral_evidence import PARAMETER_GROUPS
from pytest_proofpack.guards.tables import column_names, rows_of, table_of

TOKEN_SHOWN = 48
"""Characters of a token's text that are recorded."""
EVIDENCE = frozenset({"matrices", "tables", "not_compared", "responses", "lost_in_text"})

_MAX_ROWS = 2**31
_MAX_ENTRIES = 200_000
_SLACK = 1e-4  # of numbers that float32 arithmetic summed in different orders

Number = float | None


@dataclass(frozen=True)
class MatrixDirection:
    """Where a changed matrix W' points, compared with the baseline's W.

    Attributes:
        name, group: the matrix' label and group, those of the spectral guard.
        cosine: <W, W'> / (|W| |W'|), the Frobenius inner product; None if it is not finite, or one of them is zero.
        retained: <W, W'> / |W'|^2, which is 1 for whatever only leaves something out of W, however much: pruning, low
            rank.
        rows_lost, columns_lost: the share of |W|^2 in rows (columns) both of whose numbers, of the row alone, are below
            the policy's ``cosine_min``, also if every column (row) of W' is scaled to fit W.
        like: the matrix of the baseline that it became, of those that changed; None for one that has not turned.
    """

    name: str
    group: str
    cosine: Number
    retained: Number
    rows_lost: Number
    columns_lost: Number
    like: str | None = None


@dataclass(frozen=True)
class RowQuantiles:
    """Quantiles over the rows of a table of |row' - row| / |row|; None where that is not finite."""

    q50: Number
    q90: Number
    q99: Number
    max: Number


@dataclass(frozen=True)
class TableRow:
    """One row: its number, its token's text, how far it moved, its cosine with the baseline's; and, if it became the
    row of another token, that one's number and text. Texts are None for rows that are no tokens'."""

    row: int
    token: str | None
    change: Number
    cosine: Number
    like: int | None = None
    like_token: str | None = None


@dataclass(frozen=True)
class TableDirection:
    """How the rows of a changed embedding or head moved.

    Attributes:
        name: the parameter.
        rows, changed: how many there are, and how many changed at all.
        lost: how many point elsewhere, see :class:`MatrixDirection`; ``reversed`` of them to the opposite side.
        compared: how many, those that moved most, were compared with all rows of the baseline that changed.
        exchanged: how many of these became the row of another one.
        longest: norm of the longest row, subject over baseline; None if it is not finite.
        change: quantiles over all rows.
        worst: some rows, those that were exchanged first, then by change.
    """

    name: str
    rows: int
    changed: int
    lost: int
    reversed: int
    compared: int
    exchanged: int
    longest: Number
    change: RowQuantiles
    worst: tuple[TableRow, ...]


def shortened_token(text: str) -> str:
    """Return the text of a token as a certificate holds it: of bounded length, valid Unicode."""
    valid = text.encode("utf-8", "backslashreplace").decode()
    return valid if len(valid) <= TOKEN_SHOWN else valid[: TOKEN_SHOWN - 1] + "…"


def direction_evidence(
    matrices: Sequence[MatrixDirection],
    tables: Sequence[TableDirection],
    not_compared: Sequence[str],
    responses: Mapping[str, Number],
    lost_in_text: Mapping[str, int] | None = None,
) -> JsonObject:
    """Return what a certificate records as evidence under ``direction``.

    Args:
        matrices: every changed matrix that could be compared.
        tables: every changed embedding and head.
        not_compared: changed parameters that could not be.
        responses: by sublayer, the cosine of its answers with the baseline's; None if one of them has none.
        lost_in_text: by table of tokens, how many of the lost rows are those of tokens that the windows hold. It is no
            part of the table, for it depends on the draw.
    """
    return {
        "matrices": table_of(MatrixDirection, matrices),
        "tables": {table.name: _table_to_json(table) for table in tables},
        "not_compared": list(not_compared),
        "responses": dict(responses),
        "lost_in_text": dict(lost_in_text or {}),
    }


def _table_to_json(table: TableDirection) -> JsonObject:
    counts = {name: getattr(table, name) for name in _COUNTS}
    change = {own.name: getattr(table.change, own.name) for own in fields(RowQuantiles)}
    worst = [{own.name: getattr(row, own.name) for own in fields(TableRow)} for row in table.worst]
    return {**counts, "longest": table.longest, "change": change, "worst": worst}


_COUNTS = ("rows", "changed", "lost", "reversed", "compared", "exchanged")


SublayerWeights = Sequence[Number]
"""Of every changed matrix of a sublayer, :attr:`MatrixDirection.retained`."""


def read_answers(evidence: Block) -> tuple[dict[str, Number], dict[str, SublayerWeights]]:
    """Return every sublayer's answer, and what its changed matrices retained; the latter where some changed.

    Raises:
        FormatError: the evidence is not what :func:`direction_evidence` writes.
    """
    responses = _responses(evidence.get("responses"))
    weights: dict[str, list[Number]] = {}
    for matrix in map(_matrix, _rows(evidence.get("matrices"))):
        if owner := owner_of(matrix.name, responses):
            weights.setdefault(owner, []).append(matrix.retained)
    return responses, dict(weights)


def grown_within(evidence: Block) -> list[str]:
    """Return the tables less than half of whose rows changed, none to a longer one than the baseline's longest.

    Nothing is checked here; :func:`read_direction` does.
    """
    tables = mapping(evidence.get("tables"), "direction.tables")
    rows = {name: mapping(row, f"direction.tables.{name:.80}") for name, row in tables.items()}
    return [
        name
        for name, row in rows.items()
        if row["longest"] is not None and row["longest"] <= 1.0 + _SLACK and row["changed"] <= row["rows"] // 2
    ]


def owner_of(name: str, paths: Iterable[str]) -> str | None:
    """Return the sublayer that a matrix is in: the longest path that begins its name."""
    return max((path for path in paths if name.startswith(f"{path}.")), key=len, default=None)


def read_direction(
    evidence: Block, rules: Rules
) -> tuple[list[MatrixDirection], list[TableDirection], list[str], dict[str, Number]]:
    """Read what :func:`direction_evidence` wrote: its arguments.

    Raises:
        FormatError: the evidence is not what that function writes, or contradicts itself.
    """
    own = exact_mapping({key: evidence.get(key) for key in EVIDENCE}, "direction", EVIDENCE)
    matrices = [_matrix(row) for row in _rows(own["matrices"])]
    if len({matrix.name for matrix in matrices}) != len(matrices):
        raise FormatError("direction.matrices: a matrix is listed twice")
    tables = [_table(name, row, rules) for name, row in sorted(mapping(own["tables"], "direction.tables").items())]
    known = {matrix.name for matrix in matrices}
    if unknown := [table.name for table in tables if table.name not in known]:
        raise FormatError(f"direction.tables: {unknown[0]!r:.80} is not among the matrices")
    skipped = own["not_compared"]
    if not isinstance(skipped, list) or not all(isinstance(name, str) for name in skipped):
        raise FormatError("direction.not_compared: expected a list of names")
    return matrices, tables, skipped, _responses(own["responses"])


def read_lost_in_text(evidence: Block, tables: Sequence[TableDirection]) -> dict[str, int]:
    """Return by table how many of its lost rows are those of tokens that the windows hold.

    Raises:
        FormatError: it is no count by table, or more than were lost.
    """
    counts, lost = (
        mapping(evidence.get("lost_in_text"), "direction.lost_in_text"),
        {own.name: own.lost for own in tables},
    )
    for name, count in counts.items():
        if type(count) is not int or not 0 <= count <= lost.get(name, -1):
            raise FormatError(f"direction.lost_in_text: {name!r:.80}: no count of rows that were lost")
    return dict(counts)


def _responses(responses: object) -> dict[str, Number]:
    return {
        name: _bounded(value, f"direction.responses.{name}", -1.0, 1.0)
        for name, value in sorted(mapping(responses, "direction.responses").items())
    }


def _rows(table: object) -> Iterator[dict[str, Any]]:
    names, where = column_names(MatrixDirection), "direction.matrices"
    for values in rows_of(exact_mapping(table, where, frozenset(names)), where, names, _MAX_ENTRIES):
        yield dict(zip(names, values, strict=True))


def _matrix(row: Mapping[str, Any]) -> MatrixDirection:
    name, group = row["name"], row["family"]
    where = f"direction.matrices: {name!r:.80}"
    if not isinstance(name, str) or group not in PARAMETER_GROUPS:
        raise FormatError(f"{where}: not a name and a family")
    cosine = _bounded(row["cosine"], where, -1.0, 1.0)
    retained = _bounded(row["retained"], where, -math.inf, math.inf)
    rows, columns = (_bounded(row[key], where, 0.0, 1.0) for key in ("rows_lost", "columns_lost"))
    if (cosine is None) != (retained is None) or (cosine or 0.0) * (retained or 0.0) < 0:
        raise FormatError(f"{where}: cosine and retained contradict each other")
    like = row["like"]
    if not (like is None or (isinstance(like, str) and like != name)):
        raise FormatError(f"{where}: expected the name of another matrix")
    return MatrixDirection(name, group, cosine, retained, rows, columns, like)


def _table(name: str, row: object, rules: Rules) -> TableDirection:
    where = f"direction.tables.{name:.80}"
    row = exact_mapping(row, where, frozenset({*_COUNTS, "longest", "change", "worst"}))
    counts = {key: row[key] for key in _COUNTS}
    if not all(type(value) is int and 0 <= value < _MAX_ROWS for value in counts.values()):
        raise FormatError(f"{where}: expected counts")
    contract = rules["measurement_contract"]
    compared = min(counts["changed"], contract["rows_compared"])
    possible = max(counts["exchanged"], counts["lost"], counts["reversed"]) <= counts["changed"] <= counts["rows"]
    if not possible or counts["compared"] != compared or counts["exchanged"] > compared:
        raise FormatError(f"{where}: the counts contradict each other")
    quantiles = exact_mapping(row["change"], f"{where}.change", frozenset(own.name for own in fields(RowQuantiles)))
    values = [_bounded(quantiles[own.name], f"{where}.change", 0.0, math.inf) for own in fields(RowQuantiles)]
    known = [math.inf if value is None else value for value in values]
    if known != sorted(known) or (counts["changed"] > 0) != (known[-1] > 0):
        raise FormatError(f"{where}.change: the quantiles contradict each other, or the count of changed rows")
    shown = [_worst_row(own, f"{where}.worst") for own in _list(row["worst"], f"{where}.worst")]
    _check_worst(shown, counts, known[-1], contract["worst_rows"], where)
    longest = _bounded(row["longest"], f"{where}.longest", 0.0, math.inf)
    return TableDirection(name, **counts, longest=longest, change=RowQuantiles(*values), worst=tuple(shown))


def _worst_row(row: object, where: str) -> TableRow:
    row = exact_mapping(row, where, frozenset(own.name for own in fields(TableRow)))
    texts = [row["token"], row["like_token"]]
    if not all(text is None or (isinstance(text, str) and len(text) <= TOKEN_SHOWN) for text in texts):
        raise FormatError(f"{where}: expected the texts of tokens")
    places = [row["row"], *([] if row["like"] is None else [row["like"]])]
    if not all(type(place) is int and 0 <= place < _MAX_ROWS for place in places) or row["like"] == row["row"]:
        raise FormatError(f"{where}: expected numbers of rows")
    change, cosine = _bounded(row["change"], where, 0.0, math.inf), _bounded(row["cosine"], where, -1.0, 1.0)
    return TableRow(row["row"], row["token"], change, cosine, row["like"], row["like_token"])


def _check_worst(rows: Sequence[TableRow], counts: Mapping[str, int], largest: float, most: int, where: str) -> None:
    """Make sure that the rows shown are those that the counts demand."""
    places = [row.row for row in rows]
    if len(rows) != min(most, counts["changed"]) or len(set(places)) != len(places):
        raise FormatError(f"{where}.worst: {len(rows)} rows, or one twice, of {counts['changed']} that changed")
    if sum(row.like is not None for row in rows) != min(most, counts["exchanged"]):
        raise FormatError(f"{where}.worst: does not show as many exchanged rows as it could")
    if any(place >= counts["rows"] for row in rows for place in (row.row, row.like or 0)):
        raise FormatError(f"{where}.worst: there is no such row")
    if any(row.change is not None and row.change > largest * (1 + _SLACK) for row in rows):
        raise FormatError(f"{where}.worst: a row moved further than the largest change")


def _list(value: object, where: str) -> Iterable[object]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: expected a list")
    return value


def _bounded(value: object, where: str, least: float, most: float) -> Number:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least - _SLACK <= value <= most + _SLACK:
        raise FormatError(f"{where}: expected a number from {least} to {most} or null, found {value!r:.40}")
    return float(value)
