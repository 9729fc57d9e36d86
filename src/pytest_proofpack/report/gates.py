"""What each gate of a certificate measured and demanded, in words."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.guard import Criterion, Gate, Words
from pytest_proofpack.report import formatting


@dataclass(frozen=True)
class GateRow:
    """One line of the gates table.

    ``state`` is ``passed``, ``passed with a warning``, ``failed`` or ``not evaluated``.
    """

    name: str
    state: str
    measured: str
    demanded: str


def gate_rows(certificate: JsonObject) -> list[GateRow]:
    """List every gate the certificate could have, and every one it names as failed."""
    from pytest_proofpack.certificate.criteria import criteria
    from pytest_proofpack.guards.registry import GUARDS

    judges = criteria()
    own = [_own_row(certificate, judge, gate) for judge in judges for gate in judge.gates]
    foreign = [
        _foreign_row(certificate, name, flag, GUARDS.added.get(name))
        for name, block in certificate.get("foreign_guards", {}).items()
        for flag in block["gates"]
    ]
    known = {row.name for row in (*own, *foreign)} | {fact for judge in judges for fact in judge.facts}
    others = formatting.unique([*certificate["validation"], *certificate["outcome"]["failed_gates"]])
    unknown = [
        _row(certificate, name, ("see its block", formatting.ABSENT), ()) for name in others if name not in known
    ]
    return [*own, *foreign, *unknown]


def _own_row(certificate: JsonObject, judge: Criterion, gate: Gate) -> GateRow:
    rules = certificate["resolved_policy"][judge.section] if judge.section else {}
    return _row(certificate, gate.flag, _words(gate, certificate[judge.block], rules), judge.warnings)


def _foreign_row(certificate: JsonObject, name: str, flag: str, guard: Criterion | None) -> GateRow:
    block = certificate["foreign_guards"][name]
    gate = next((gate for gate in guard.gates if gate.flag == flag), None) if guard is not None else None
    words = _words(gate, block["derived"], block["policy"])
    return _row(certificate, flag, words, block["warnings"])


def _words(gate: Gate | None, block: JsonObject, rules: JsonObject) -> Words:
    if gate is None or gate.words is None:
        return "see its block", formatting.ABSENT
    return gate.words(block, rules)


def _row(certificate: JsonObject, flag: str, words: Words, warnings: Collection[str]) -> GateRow:
    measured, demanded = words
    state = _state(flag, certificate, warnings)
    return GateRow(flag, state, formatting.ABSENT if state == "not evaluated" else measured, demanded)


def _state(flag: str, certificate: JsonObject, warnings: Collection[str]) -> str:
    validation, outcome = certificate["validation"], certificate["outcome"]
    if flag in outcome["failed_gates"] or validation.get(flag) is False:
        return "failed"
    if flag not in validation:
        return "not evaluated"
    return "passed with a warning" if set(warnings) & set(outcome["warnings"]) else "passed"
