"""Whether less is demanded after than before, of an edit, by gates or by limits: then a PASS says less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.explain import gate_words
from pytest_proofpack.certificate.foreign import FOREIGN
from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.limits import MODE, MODES, limit_names
from pytest_proofpack.certificate.policy import looser_than
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import first_of, limit, printable, shortened
from pytest_proofpack.guards.registry import GUARDS
from pytest_proofpack.plan.edit_kinds import NOOP
from pytest_proofpack.plan.records import Scenario, Strictness

_SHOWN = 6
_LONGEST = 60
_IMPLIED = {
    Strictness.MUST_PASS: {Strictness.MUST_PASS},
    Strictness.MUST_FAIL: {Strictness.MUST_FAIL},
    Strictness.MUST_DETECT: {Strictness.MUST_DETECT, Strictness.MUST_FAIL},
    Strictness.INFORMATIONAL: set(Strictness),
}
"""Demands that make sure of a demand: what fails, seen by a detector, is detected."""


def weaker_demand(before: Scenario, after: Scenario) -> Iterator[str]:
    """Say it if what a scenario demands after does not make sure of what it demanded before."""
    if after.strictness not in _IMPLIED[before.strictness]:
        words = [one.strictness.value.replace("_", " ") for one in (before, after)]
        yield f"less is demanded of it: {words[0]}, then {words[1]}"
    elif _is_noop(before) and not _is_noop(after):
        yield "less is demanded of it: no difference at all, then to pass"


def weaker_judges(before: JsonObject, after: JsonObject) -> Iterator[str]:
    """Say by which gates the certificate before was judged and the one after is not, and which limits are looser.

    What has come since, a gate or a threshold, is not less.
    """
    formats = [format_of(certificate).number for certificate in (before, after)]
    judged = _gates(after)
    gone = [gate_words(gate) for gate in _gates(before) if gate not in judged]
    if formats[1] < formats[0]:
        lost = f", so not any more by: {first_of(gone, _SHOWN)}" if gone else ""
        yield f"less is judged: certificates of format {formats[0]}, then {formats[1]}{lost}"
    elif gone:
        yield f"less is judged, not any more by: {first_of(gone, _SHOWN)}"
    looser = list(_looser(before["resolved_policy"], after["resolved_policy"], formats[1] < formats[0]))
    if looser:
        yield f"looser limits: {first_of(looser, _SHOWN, '; ')}"
    yield from _looser_guards(before.get(FOREIGN, {}), after.get(FOREIGN, {}))


def _gates(certificate: JsonObject) -> list[str]:
    """Return the flags of the gates that a certificate was judged by."""
    own = [gate.flag for judge in criteria(format_of(certificate).guards) for gate in judge.gates]
    return [*own, *(flag for block in certificate.get(FOREIGN, {}).values() for flag in block["gates"])]


def _is_noop(scenario: Scenario) -> bool:
    return scenario.subject is not None and scenario.subject.label == NOOP


def _looser(before: JsonObject, after: JsonObject, earlier: bool) -> Iterator[str]:
    """Name every limit that is looser after, or is none any more; an earlier format lacks some, which is said of it."""
    for name, way in limit_names().items():
        section, key = name.split(".")
        old, new = before.get(section, {}).get(key), after.get(section, {}).get(key)
        if old is None or (new is None and earlier):
            continue
        if _strictness(new, name, way) < _strictness(old, name, way):
            yield f"{name} {_shown(old)}, then {_shown(new)}"


def _strictness(value: object, name: str, way: str) -> float:
    """Return a number that is larger for a stricter limit; the smallest for what is none."""
    if name == MODE:
        return MODES.index(value) if value in MODES else -1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("-inf")
    return -value if way == "max" else value


def _looser_guards(before: Mapping[str, JsonObject], after: Mapping[str, JsonObject]) -> Iterator[str]:
    """Say which guards of extensions have looser limits; of one that is not installed here nobody knows which are."""
    for name, block in before.items():
        if name not in after or after[name]["policy"] == block["policy"]:
            continue
        guard = GUARDS.added.get(name)
        if guard is None:
            yield printable(f"other limits of the guard {shortened(name, _LONGEST)}, which is not known here")
            continue
        found = looser_than(block["policy"], after[name]["policy"], guard.tightens, "before it")
        looser = [finding for finding in found if not finding.endswith("is unknown")]
        if looser:
            yield printable(f"looser limits of the guard {shortened(name, _LONGEST)}: {first_of(looser, _SHOWN, '; ')}")


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return limit(value) if isinstance(value, int | float) else printable(shortened(str(value), _LONGEST))
