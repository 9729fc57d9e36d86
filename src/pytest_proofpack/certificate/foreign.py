"""Guards of extensions in a certificate: ``foreign_guards.<name>``, which says what of them anybody can recompute.

A block holds the guard's thresholds (``policy``), its ``evidence``, what it ``derived``, and for the outcome its flags
(``gates``), ``warnings`` and ``signal``. Who has the guard registered recomputes all but the evidence. To everybody
else the block is the maker's word, flags included; :func:`unknown_guards` names what is not recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.certificate.policy import looser_than
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.common.words import first_of
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import RESERVED_FLAGS, Case, Guard, flags_of
from pytest_proofpack.guards.registry import GUARDS

FOREIGN = "foreign_guards"
DERIVED = ("derived", "gates", "warnings", "signal")
_SHOWN = 8


@dataclass(frozen=True)
class ForeignOutcome:
    """What the foreign guards of a certificate contribute to its outcome.

    Attributes:
        derived: by guard that is registered here, the derived half of its block.
        flags: the gates' flags.
        warnings: what was raised.
        signals: names of the signals whose guards failed.
    """

    derived: JsonObject
    flags: dict[str, bool]
    warnings: list[str]
    signals: list[str]


def foreign_blocks(evidence: Mapping[str, JsonObject]) -> JsonObject:
    """Return the blocks of a certificate that is being built, from the evidence by guard; {} without any.

    Raises:
        ConfigurationError: there is no such guard.
    """
    blocks = {name: {"policy": GUARDS.require(name).thresholds, "evidence": facts} for name, facts in evidence.items()}
    return {FOREIGN: blocks} if blocks else {}


def judge_foreign(evidence: JsonObject, case: Case) -> ForeignOutcome:
    """Judge every foreign guard of a certificate; those that are not registered here are taken at their word.

    Raises:
        FormatError: a flag's name is that of another gate, or the evidence of a guard is not what it measures.
    """
    outcome = ForeignOutcome({}, {}, [], [])
    taken = {*RESERVED_FLAGS, *(flag for guard in GUARDS.builtin.values() for flag in flags_of(guard))}
    # By name: the order of an object's keys does not survive writing and reading.
    for name, block in sorted(evidence.get(FOREIGN, {}).items()):
        guard = GUARDS.added.get(name)
        judged = block if guard is None else _judged(guard, block, case)
        if twice := sorted(taken & judged["gates"].keys()):
            raise FormatError(f"{FOREIGN}.{name}: the flag {twice[0]!r} is another guard's")
        taken |= judged["gates"].keys()
        if guard is not None:
            outcome.derived[name] = judged
        outcome.flags.update(judged["gates"])
        outcome.warnings.extend(judged["warnings"])
        if judged["signal"] is not None and not all(judged["gates"].values()):
            outcome.signals.append(judged["signal"])
    return outcome


def foreign_policy_findings(certificate: JsonObject) -> list[str]:
    """Name every threshold of a guard registered here that is missing, unknown, or looser than the guard's own."""
    return [
        f"{FOREIGN}.{name}.policy.{finding}"
        for name, guard in _known(certificate)
        for finding in looser_than(
            guard.thresholds, certificate[FOREIGN][name]["policy"], guard.tightens, "the guard itself"
        )
    ]


def unknown_guards(certificate: JsonObject) -> list[str]:
    """Say of every guard that is not registered here which numbers were not recomputed, a line per guard."""
    blocks = certificate.get(FOREIGN, {})
    return [
        f"{FOREIGN}.{name}: there is no guard of this name here, so nothing of it was recomputed: "
        f"{first_of([f'derived.{path}' for path in _leaves(block['derived'])], _SHOWN)}; its gates "
        f"({first_of(list(block['gates']), _SHOWN) or 'none'}) are the maker's word"
        for name, block in sorted(blocks.items())
        if name not in GUARDS.added
    ]


def known_blocks(certificate: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield the derived half of every block whose guard is registered here, with its path."""
    for name, _ in _known(certificate):
        block = certificate[FOREIGN][name]
        yield name, {key: block[key] for key in DERIVED if key in block}


def _known(certificate: JsonObject) -> Iterator[tuple[str, Guard]]:
    added = GUARDS.added
    return ((name, added[name]) for name in sorted(certificate.get(FOREIGN, {})) if name in added)


def _judged(guard: Guard, block: JsonObject, case: Case) -> JsonObject:
    where = f"{FOREIGN}.{guard.name}"
    try:
        derived = guard.derive(block["evidence"], block["policy"], case)
        # As it will be read: lists for tuples, and nothing that JSON can't hold.
        derived = parse_json(compact_json(derived).encode(), f"{where}.derived")
        return {
            "derived": derived,
            "gates": {gate.flag: bool(gate.holds(derived)) for gate in guard.gates},
            "warnings": guard.raised(derived),
            "signal": None if guard.signal is None else guard.signal.name,
        }
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error


def _leaves(tree: Any, path: str = "") -> Iterator[str]:
    if isinstance(tree, Mapping) and tree:
        for key, value in sorted(tree.items()):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif path:
        yield path
