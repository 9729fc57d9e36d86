"""The direction guard: do the weights still point where the baseline's did, and is each token's row its own?

A transposed matrix, two matrices exchanged, rows in another order: norms and singular values stay, and so may the
perplexity of a text that does not use them. What tells is the inner product with the baseline. But edits that change
nothing (permuted neurons, a rotated residual stream) lose it as well. So a matrix is lost only if its sublayer does not
answer as before either, seen in a way that such edits leave alone (:mod:`pytest_proofpack.measures.responses`). Rows
of embedding and head that were exchanged are told by becoming each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import exact_mapping, mapping
from pytest_proofpack.guards.changes import NOT_COMPARED
from pytest_proofpack.guards.guard import DIRECTION, Block, Gate, Guard, Rules, Shared, Words
from pytest_proofpack.guards.spectral_evidence import MEASURED, PARAMETER_GROUPS

NAMES_SHOWN = 8
"""How many matrices a list names; the count is always exact."""
TOKEN_SHOWN = 48
"""Characters of a token's text that are recorded."""

_EVIDENCE = frozenset({"matrices", "tables", "not_compared", "responses"})
_SUBLAYER_GROUPS = ("attn", "ffn", "router")
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
    change: RowQuantiles
    worst: tuple[TableRow, ...]


def measurement_contract(_: Rules) -> JsonObject:
    """Return how evidence is measured, besides the thresholds.

    ``tokens`` of the calibration windows, evenly spaced, are looked at from the embeddings of ``anchors`` of their
    tokens, drawn with ``seed``. Of the changed rows of a table up to ``rows_compared`` are compared, and ``worst_rows``
    recorded.
    """
    return {"tokens": 256, "anchors": 128, "seed": 0, "rows_compared": 256, "worst_rows": 16}


def shortened_token(text: str) -> str:
    """Return the text of a token as a certificate holds it: of bounded length, valid Unicode."""
    valid = text.encode("utf-8", "backslashreplace").decode()
    return valid if len(valid) <= TOKEN_SHOWN else valid[: TOKEN_SHOWN - 1] + "…"


def direction_evidence(
    matrices: Sequence[MatrixDirection],
    tables: Sequence[TableDirection],
    not_compared: Sequence[str],
    responses: Mapping[str, Number],
) -> JsonObject:
    """Return what a certificate records as evidence under ``direction``.

    Args:
        matrices: every changed matrix that could be compared.
        tables: every changed embedding and head.
        not_compared: changed parameters that could not be.
        responses: by sublayer, the cosine of its answers with the baseline's; None if one of them has none.
    """
    rows = [astuple(matrix) for matrix in matrices]
    return {
        "matrices": {name: [row[index] for row in rows] for index, name in enumerate(_columns(MatrixDirection))},
        "tables": {table.name: _table_to_json(table) for table in tables},
        "not_compared": list(not_compared),
        "responses": dict(responses),
    }


def _columns(record: type[MatrixDirection]) -> list[str]:
    return ["family" if own.name == "group" else own.name for own in fields(record)]


def _table_to_json(table: TableDirection) -> JsonObject:
    counts = {name: getattr(table, name) for name in _COUNTS}
    change = {own.name: getattr(table.change, own.name) for own in fields(RowQuantiles)}
    worst = [{own.name: getattr(row, own.name) for own in fields(TableRow)} for row in table.worst]
    return {**counts, "change": change, "worst": worst}


_COUNTS = ("rows", "changed", "lost", "reversed", "compared", "exchanged")


def derive_direction(evidence: Block, rules: Rules) -> JsonObject:
    """Judge the evidence of :func:`direction_evidence`.

    A matrix of a sublayer has ``turned`` if the rows or columns of it that did hold more than ``lost_share_max`` of its
    square. Edits that change no function turn two at least, both sides of what they put in another order or rotate; or
    they turn the embedding. So a matrix that turned alone is ``lost``. One that did not is lost if its sublayer's
    answers are below ``response_min``, or if it became another matrix, unless a router turned too, as it has to when
    experts change places. A table is ``mixed_up`` if rows became each other, or some were reversed while most were not.

    Raises:
        FormatError: the evidence is not what that function writes, or contradicts itself.
    """
    matrices, tables, skipped, responses = _read(evidence, rules)
    turned = [matrix for matrix in matrices if has_turned(matrix, rules)]
    if unturned := [matrix.name for matrix in matrices if matrix.like is not None and matrix not in turned]:
        raise FormatError(f"direction.matrices: {unturned[0]!r:.80} became another one, and has not turned")
    lost = _lost(turned, tables, responses, rules)
    mixed_up = [table.name for table in tables if table.exchanged or 0 < table.reversed <= table.rows // 2]
    cosines = [matrix.cosine for matrix in matrices if matrix.cosine is not None]
    measured = [value for value in responses.values() if value is not None]
    return {
        "evaluated": True,
        "passed": not lost and not mixed_up,
        "compared": len(matrices),
        "skipped": len(skipped),
        "cosine_min": min(cosines, default=None),
        "response_min": min(measured, default=None),
        "turned": len(turned),
        "turned_names": [matrix.name for matrix in turned][:NAMES_SHOWN],
        "lost": len(lost),
        "lost_names": lost[:NAMES_SHOWN],
        "mixed_up": mixed_up,
        "rows_exchanged": sum(table.exchanged for table in tables),
    }


def has_turned(matrix: MatrixDirection, rules: Rules) -> bool:
    """Tell whether a matrix of a sublayer points elsewhere, see :func:`derive_direction`."""
    if matrix.group not in _SUBLAYER_GROUPS:
        return False
    return bool(max(matrix.rows_lost or 0.0, matrix.columns_lost or 0.0) > rules["lost_share_max"])


def _lost(
    turned: Sequence[MatrixDirection],
    tables: Sequence[TableDirection],
    responses: Mapping[str, Number],
    rules: Rules,
) -> list[str]:
    """Return the turned matrices that no edit explains which changes no function."""
    rotated = any(table.lost > table.rows // 2 for table in tables)
    members: dict[str, list[MatrixDirection]] = {}
    for matrix in turned:
        # The longest path that begins its name; a matrix in no sublayer answers nothing that could be compared.
        owners = [path for path in responses if matrix.name.startswith(f"{path}.")]
        if owners:
            members.setdefault(max(owners, key=len), []).append(matrix)
    lost: list[str] = []
    for path, own in members.items():
        answer = responses[path]
        alone = len(own) == 1 and not rotated
        if alone or answer is None or answer < rules["response_min"]:
            lost += [matrix.name for matrix in own]
        elif not any(matrix.group == "router" for matrix in own):  # which follows experts that change places
            lost += [matrix.name for matrix in own if matrix.like is not None]
    return lost


def require_covered(certificate: Mapping[str, Any]) -> None:
    """Make sure that nothing is left out that other guards of the certificate have seen.

    Every matrix that the spectral guard measured has to be compared or named as not comparable, which a subject's own
    changes have to confirm, and every sublayer that the rmt guard watched has to have its answer.

    Raises:
        FormatError: something is left out.
    """
    block, spectral = certificate["direction"], certificate["spectral"]["matrices"]
    there = {*block["matrices"]["name"]}
    skipped = {*block["not_compared"]}
    for label, state in zip(spectral["name"], spectral["state"], strict=True):
        if state == MEASURED and label not in there and str(label).partition("[")[0] not in skipped:
            raise FormatError(f"direction.matrices: {label!r:.80} is left out, which the spectral guard measured")
    if {*certificate["rmt"]["branches"]} != {*block["responses"]}:
        raise FormatError("direction.responses: are not those of the sublayers that the rmt guard watched")
    changes = certificate["structure"].get("changes")
    if changes is not None:
        states = dict(zip(changes["tensors"]["name"], changes["tensors"]["state"], strict=True))
        if wrong := [name for name in block["not_compared"] if states.get(name) != NOT_COMPARED]:
            raise FormatError(f"direction.not_compared: {wrong[0]!r:.80} was compared by structure.changes")


def _read(
    evidence: Block, rules: Rules
) -> tuple[list[MatrixDirection], list[TableDirection], list[str], dict[str, Number]]:
    own = exact_mapping({key: evidence.get(key) for key in _EVIDENCE}, "direction", _EVIDENCE)
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
    responses = {
        name: _bounded(value, f"direction.responses.{name}", -1.0, 1.0)
        for name, value in sorted(mapping(own["responses"], "direction.responses").items())
    }
    return matrices, tables, skipped, responses


def _rows(table: object) -> Iterator[dict[str, Any]]:
    names = _columns(MatrixDirection)
    table = exact_mapping(table, "direction.matrices", frozenset(names))
    columns = [table[name] for name in names]
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        raise FormatError("direction.matrices: columns must be lists of one length")
    if len(columns[0]) > _MAX_ENTRIES:
        raise FormatError(f"direction.matrices: more than {_MAX_ENTRIES} entries")
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


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
    row = exact_mapping(row, where, frozenset({*_COUNTS, "change", "worst"}))
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
    return TableDirection(name, **counts, change=RowQuantiles(*values), worst=tuple(shown))


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


def _words(block: Block, rules: Rules) -> Words:
    demanded = (
        f"no matrix turned (rows or columns below a cosine of {words.number(rules['cosine_min'])}) alone, or in a "
        f"sublayer whose answers are below {words.number(rules['response_min'])}; no rows of embedding or head mixed up"
    )
    if not block["compared"]:
        return "nothing changed that could be compared", demanded
    parts = [f"smallest cosine {words.scalar(block['cosine_min'])}, of answers {words.scalar(block['response_min'])}"]
    if block["lost"]:
        parts.append(f"{block['lost']} lost: {', '.join(words.printable(name) for name in block['lost_names'])}")
    if block["mixed_up"]:
        tables = ", ".join(words.printable(name) for name in block["mixed_up"])
        parts.append(f"rows mixed up in {tables}: at least {block['rows_exchanged']} became another one's")
    return "; ".join(parts), demanded


DIRECTION_GUARD = Guard(
    name="direction",
    judges="where weights point, and whose rows embedding and head hold",
    evidence=_EVIDENCE,
    derive=lambda block, rules, _case: derive_direction(block, rules),
    gates=(Gate("direction_kept", lambda block: block["passed"], _words),),
    signal=DIRECTION,
    section="direction",
    shared=Shared(edited=lambda block: {"matrices and tables": [block["matrices"], block["tables"]]}),
    tightens={"response_min": "min", "lost_share_max": "max"},
    contract=measurement_contract,
)
