"""The direction guard: do the weights still point where the baseline's did, and is each token's row its own?

A transposed matrix, two matrices exchanged, rows in another order: norms and singular values stay, and so may the
perplexity of a text that does not use them. What tells is the inner product with the baseline. But edits that change
nothing (permuted neurons, a rotated residual stream) lose it as well. So a matrix is lost only if its sublayer does not
answer as before either, seen in a way that such edits leave alone (:mod:`pytest_proofpack.measures.responses`). Rows
of embedding and head that were exchanged are told by becoming each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.changes import NOT_COMPARED
from pytest_proofpack.guards.direction_evidence import (
    EVIDENCE,
    MatrixDirection,
    Number,
    TableDirection,
    owner_of,
    read_direction,
    read_lost_in_text,
)
from pytest_proofpack.guards.guard import (
    DIRECTION,
    NAMES_SHOWN,
    Block,
    Case,
    Gate,
    Guard,
    Rules,
    Shared,
    Words,
    share_below_one,
)
from pytest_proofpack.guards.spectral_evidence import MEASURED

_SUBLAYER_GROUPS = ("attn", "ffn", "router")


def measurement_contract(_: Rules) -> JsonObject:
    """Return how evidence is measured, besides the thresholds.

    ``tokens`` of the calibration windows, evenly spaced, are looked at from the embeddings of ``anchors`` of their
    tokens, drawn with ``seed``. Of the changed rows of a table up to ``rows_compared`` are compared, and ``worst_rows``
    recorded.
    """
    return {"tokens": 256, "anchors": 128, "seed": 0, "rows_compared": 256, "worst_rows": 16}


def derive_direction(evidence: Block, rules: Rules) -> JsonObject:
    """Judge the evidence of :func:`pytest_proofpack.guards.direction_evidence.direction_evidence`.

    A matrix of a sublayer has ``turned`` if the rows or columns of it that did hold more than ``lost_share_max`` of its
    square. Edits that change no function turn two at least, both sides of what they put in another order or rotate; or
    they turn the embedding. So a matrix that turned alone is ``lost``. One that did not is lost if its sublayer's
    answers are below ``response_min``, or if it became another matrix, unless a router turned too, as it has to when
    experts change places. A table is ``mixed_up`` if rows became each other, or some were reversed while most were not.
    Lost rows of tokens that the windows hold are counted, and warn, unless the table was rotated: damage to a few
    tokens that are rare in a text moves its perplexity by little.

    Raises:
        FormatError: the evidence is not what that function writes, or contradicts itself.
    """
    matrices, tables, skipped, responses = read_direction(evidence, rules)
    turned = [matrix for matrix in matrices if has_turned(matrix, rules)]
    if unturned := [matrix.name for matrix in matrices if matrix.like is not None and matrix not in turned]:
        raise FormatError(f"direction.matrices: {unturned[0]!r:.80} became another one, and has not turned")
    lost = _lost(turned, tables, responses, rules)
    mixed_up = [table.name for table in tables if table.exchanged or 0 < table.reversed <= table.rows // 2]
    in_text = read_lost_in_text(evidence, tables)
    rotated = {table.name for table in tables if _is_rotated(table)}
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
        "rows_lost_in_text": sum(count for name, count in in_text.items() if name not in rotated),
    }


def has_turned(matrix: MatrixDirection, rules: Rules) -> bool:
    """Tell whether a matrix of a sublayer points elsewhere, see :func:`derive_direction`."""
    if matrix.group not in _SUBLAYER_GROUPS:
        return False
    return bool(max(matrix.rows_lost or 0.0, matrix.columns_lost or 0.0) > rules["lost_share_max"])


def _is_rotated(table: TableDirection) -> bool:
    return table.lost > table.rows // 2


def _lost(
    turned: Sequence[MatrixDirection],
    tables: Sequence[TableDirection],
    responses: Mapping[str, Number],
    rules: Rules,
) -> list[str]:
    """Return the turned matrices that no edit explains which changes no function."""
    rotated = any(map(_is_rotated, tables))
    members: dict[str, list[MatrixDirection]] = {}
    for matrix in turned:
        # A matrix in no sublayer answers nothing that could be compared.
        if owner := owner_of(matrix.name, responses):
            members.setdefault(owner, []).append(matrix)
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


def _words(block: Block, rules: Rules) -> Words:
    demanded = (
        f"no matrix turned (rows or columns below a cosine of {words.limit(rules['cosine_min'])}) alone, or in a "
        f"sublayer whose answers are below {words.limit(rules['response_min'])}; no rows of embedding or head mixed up"
    )
    if not block["compared"]:
        return "nothing changed that could be compared", demanded
    parts = [f"smallest cosine {words.scalar(block['cosine_min'])}, of answers {words.scalar(block['response_min'])}"]
    if block["lost"]:
        parts.append(f"{block['lost']} lost: {', '.join(words.printable(name) for name in block['lost_names'])}")
    if block["mixed_up"]:
        tables = ", ".join(words.printable(name) for name in block["mixed_up"])
        parts.append(f"rows mixed up in {tables}: at least {block['rows_exchanged']} became another one's")
    if block["rows_lost_in_text"]:
        parts.append(f"{block['rows_lost_in_text']} rows of tokens that the text holds point elsewhere")
    return "; ".join(parts), demanded


def _derived(block: Block, rules: Rules, case: Case) -> JsonObject:
    derived = derive_direction(block, rules)
    require_covered(case.blocks)
    return derived


DIRECTION_GUARD = Guard(
    name="direction",
    judges="where weights point, and whose rows embedding and head hold",
    evidence=EVIDENCE,
    derive=_derived,
    gates=(
        Gate(
            "direction_kept",
            lambda block: block["passed"],
            _words,
            title="direction of weights",
            used=lambda block, rules: share_below_one(block["cosine_min"], rules["cosine_min"]),
            applies=lambda block: bool(block["compared"]),
        ),
    ),
    warnings={"direction": lambda block: bool(block["rows_lost_in_text"])},
    signal=DIRECTION,
    section="direction",
    shared=Shared(edited=lambda block: {"matrices and tables": [block["matrices"], block["tables"]]}),
    tightens={"response_min": "min", "lost_share_max": "max"},
    contract=measurement_contract,
)
