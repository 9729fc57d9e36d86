"""What each gate of a certificate measured and demanded, in words, and what it used of its allowance."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.guard import Block, Criterion, Gate, Rules, Words
from pytest_proofpack.report import formatting

PASSED, WARNED, FAILED = "passed", "passed with a warning", "failed"
NOT_EVALUATED, NOT_APPLICABLE = "not evaluated", "not applicable"
LIMIT_AT = 80.0
"""Where on a bar of 100 the limit is drawn."""
_SIGNS = {PASSED: "good", WARNED: "warn", FAILED: "bad"}


@dataclass(frozen=True)
class GateRow:
    """One line of the gates.

    Attributes:
        flag: the gate's name in the certificate.
        title: what it looks at, in words.
        state: one of this module's five.
        measured, demanded: in words.
        used: share of the allowance that was used; infinite where it went beyond any, None where nobody can say.
        block: the block of the certificate that it is read off.
    """

    flag: str
    title: str
    state: str
    measured: str
    demanded: str
    used: float | None = None
    block: str = ""

    @property
    def sign(self) -> str:
        """The state's sign: ``good``, ``warn``, ``bad`` or none."""
        return _SIGNS.get(self.state, "")

    @property
    def warned(self) -> bool:
        """Whether it passed with a warning."""
        return self.state == WARNED

    @property
    def bar(self) -> str | None:
        """How long the bar is, of 100, with the limit at :data:`LIMIT_AT`; None if there is none."""
        return None if self.used is None else f"{min(100.0, LIMIT_AT * self.used):.1f}"

    @property
    def margin(self) -> str:
        """What is left of the allowance, in words."""
        if self.used is None:
            return ""
        if not math.isfinite(self.used):
            return "beyond any allowance"
        if self.used > 1:
            return f"{formatting.number(float(f'{self.used:.3g}'))} times the allowance"
        return f"{formatting.percent(1 - self.used)} % left"


@dataclass(frozen=True)
class _Reading:
    """What was read off a gate's block: words, the warnings that its criterion raises, and what was used."""

    words: Words = ("see its block", formatting.ABSENT)
    warnings: Collection[str] = ()
    block: str = ""
    used: float | None = None


def gate_rows(certificate: JsonObject) -> list[GateRow]:
    """List every gate that certificates of this format have, and every one that this one names as failed."""
    from pytest_proofpack.certificate.criteria import criteria
    from pytest_proofpack.certificate.formats import format_of
    from pytest_proofpack.guards.registry import GUARDS

    judges = criteria(format_of(certificate).guards)
    own = [_own_row(certificate, judge, gate) for judge in judges for gate in judge.gates]
    foreign = [
        _foreign_row(certificate, name, flag, GUARDS.added.get(name))
        for name, block in certificate.get("foreign_guards", {}).items()
        for flag in block["gates"]
    ]
    known = {row.flag for row in (*own, *foreign)} | {fact for judge in judges for fact in judge.facts}
    others = formatting.unique([*certificate["validation"], *certificate["outcome"]["failed_gates"]])
    unknown = [_row(certificate, Gate(name, bool), _Reading()) for name in others if name not in known]
    return [*own, *foreign, *unknown]


def _own_row(certificate: JsonObject, judge: Criterion, gate: Gate) -> GateRow:
    rules = certificate["resolved_policy"][judge.section] if judge.section else {}
    block = certificate[judge.block]
    used = _used(gate.used or judge.strain, block, rules)
    return _row(certificate, gate, _Reading(_words(gate, block, rules), judge.warnings, judge.block, used))


def _foreign_row(certificate: JsonObject, name: str, flag: str, guard: Criterion | None) -> GateRow:
    block = certificate["foreign_guards"][name]
    gate = next((gate for gate in guard.gates if gate.flag == flag), None) if guard is not None else None
    words = _words(gate, block["derived"], block["policy"])
    return _row(certificate, gate or Gate(flag, bool), _Reading(words, block["warnings"], name))


def _words(gate: Gate | None, block: Block, rules: Rules) -> Words:
    if gate is None or gate.words is None:
        return _Reading.words
    return gate.words(block, rules)


def _used(used: Callable[[Block, Rules], float | None] | None, block: Block, rules: Rules) -> float | None:
    if used is None:
        return None
    try:
        return used(block, rules)
    except (LookupError, TypeError, ArithmeticError, ValueError):  # a number is missing that it is read off
        return None


def _row(certificate: JsonObject, gate: Gate, read: _Reading) -> GateRow:
    state = _state(gate, certificate, read)
    measured, demanded = read.words
    within = (read.used or 0.0) <= 1.0
    # Not where it would contradict the state: something else than this number failed, or its excess was excused.
    used = read.used if state == WARNED or (state == PASSED and within) or (state == FAILED and not within) else None
    title = formatting.printable(gate.title)
    shown = formatting.ABSENT if state == NOT_EVALUATED else measured
    return GateRow(gate.flag, title, state, shown, demanded, used, read.block)


def _state(gate: Gate, certificate: JsonObject, read: _Reading) -> str:
    validation, outcome = certificate["validation"], certificate["outcome"]
    if gate.flag in outcome["failed_gates"] or validation.get(gate.flag) is False:
        return FAILED
    if gate.flag not in validation:
        return NOT_EVALUATED
    if set(read.warnings) & set(outcome["warnings"]):
        return WARNED
    found = certificate.get(read.block)
    return PASSED if not isinstance(found, dict) or gate.applies(found) else NOT_APPLICABLE
