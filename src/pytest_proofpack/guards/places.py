"""The places guard: do values stand where the baseline has them, or are they its very own in another place?

Rows in another order, a matrix transposed, one that holds another's values: all of it was read, and put into the wrong
place. That is told bit by bit (:mod:`pytest_proofpack.measures.places`), with no cosine and no limit, and so apart from
what the direction guard sees. Whoever permutes neurons, heads or the residual stream puts values elsewhere too, and
keeps the function exactly, which is demanded here.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import exact_mapping, mapping
from pytest_proofpack.guards.answers import function_changed
from pytest_proofpack.guards.guard import INVARIANTS, NAMES_SHOWN, Block, Case, Gate, Guard, Rules, Shared, Words

ROWS, COLUMNS, TRANSPOSED = "rows", "columns", "transposed"
"""How a matrix may hold its own values: rows or columns in another order, or transposed."""

_TABLES = ("embed", "head")


def places_evidence(rearranged: Mapping[str, str]) -> JsonObject:
    """Return what a certificate records as evidence under ``places``; see :func:`measures.places.rearranged`."""
    return {"rearranged": dict(rearranged)}


def derive_places(evidence: Block, rules: Rules, case: Case) -> JsonObject:
    """Judge the evidence of :func:`places_evidence` by the ``places`` section of a policy.

    Rearranged matrices are explained where the function was kept to ``kept_kl_max`` and ``kept_answer_min``, but for
    rows of embedding and head, whose places are tokens.

    Raises:
        FormatError: the evidence is not what that function writes, or names what the direction guard has not compared.
    """
    own = exact_mapping({"rearranged": evidence.get("rearranged")}, "places", frozenset({"rearranged"}))
    found = mapping(own["rearranged"], "places.rearranged")
    matrices = case.blocks["direction"]["matrices"]
    groups = dict(zip(matrices["name"], matrices["family"], strict=True))
    if wrong := [name for name, how in found.items() if name not in groups or not isinstance(how, str) or how == name]:
        raise FormatError(f"places.rearranged: {wrong[0]!r:.80} is no changed matrix, or in no other place")
    limits = {**case.rules["answers"], **rules}
    kept = bool(found) and not function_changed(case.blocks, limits, case.final.counts)
    lost = [name for name, how in sorted(found.items()) if not kept or (how == ROWS and groups[name] in _TABLES)]
    return {
        "evaluated": True,
        "passed": not lost,
        "explained": len(found) - len(lost),
        "misplaced": len(lost),
        "misplaced_names": lost[:NAMES_SHOWN],
    }


def _words(block: Block, _: Rules) -> Words:
    demanded = "no matrix holds the baseline's values in another place, unless the function was kept exactly"
    if not block["misplaced"]:
        explained = f"; put elsewhere while the function was kept: {block['explained']}" if block["explained"] else ""
        return f"nothing misplaced{explained}", demanded
    named = (f"{name} ({_said(block['rearranged'][name])})" for name in block["misplaced_names"])
    return f"{block['misplaced']} misplaced: {', '.join(named)}", demanded


def _said(how: str) -> str:
    own = {ROWS: "rows in another order", COLUMNS: "columns in another order", TRANSPOSED: "transposed"}
    return own.get(how, f"holds {words.printable(how)}")


PLACES_GUARD = Guard(
    name="places",
    judges="whether values stand where the baseline has them",
    evidence=frozenset({"rearranged"}),
    derive=derive_places,
    gates=(
        Gate(
            "values_in_place",
            lambda block: block["passed"],
            _words,
            title="places of values",
        ),
    ),
    signal=INVARIANTS,
    section="places",
    shared=Shared(edited=lambda block: {"values in another place": block["rearranged"]}),
)
