"""The record of a guard and the registry: what an extension may register, and what the package's own records say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.guard import Gate, flags_of
from pytest_proofpack.guards.registry import GUARDS
from tests.support.foreign_guard import LARGEST_WEIGHT, registered


def test_a_registered_guard_is_added_and_the_packages_own_stay_apart() -> None:
    own = list(GUARDS.builtin)
    with registered():
        assert list(GUARDS) == [*own, "largest_weight"]
        assert list(GUARDS.builtin) == own
        assert list(GUARDS.added) == ["largest_weight"]
    assert list(GUARDS) == own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "spectral"}, "guard 'spectral' is registered already"),
        ({"name": "My Guard"}, "'My Guard' is no name"),
        ({"name": "x" * 65}, "is no name"),
        ({"measure": None}, r"has no measure\(context\), so nothing would be judged"),
        ({"gates": (Gate("rmt_stable", bool),)}, "the flag 'rmt_stable' is taken"),
        ({"gates": (Gate("moe_observed", bool),)}, "the flag 'moe_observed' is taken"),
        ({"gates": (Gate("primary_metric_acceptable", bool),)}, "the flag 'primary_metric_acceptable' is taken"),
        ({"gates": (Gate("mine_ok", bool), Gate("mine_ok", bool))}, "the flag 'mine_ok' is taken"),
        ({"gates": (Gate("../ok", bool),)}, "is no name"),
        ({"facts": {"mine_seen": bool}}, "flags that gate nothing are for the package's own"),
    ],
)
def test_what_cannot_be_registered_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GUARDS.register(replace(LARGEST_WEIGHT, **changes))
    assert not GUARDS.added


def test_two_extensions_cannot_use_one_name_or_flag() -> None:
    with registered():
        with pytest.raises(ConfigurationError, match="the flag 'largest_weight_ok' is taken"):
            GUARDS.register(replace(LARGEST_WEIGHT, name="another"))
        with pytest.raises(ConfigurationError, match="'largest_weight' is registered already"):
            GUARDS.register(replace(LARGEST_WEIGHT, gates=(Gate("mine_ok", bool),)))


def test_no_two_of_the_packages_guards_share_a_flag_or_a_block() -> None:
    guards = list(GUARDS.builtin.values())
    flags = [flag for guard in guards for flag in flags_of(guard)]
    assert len(flags) == len(set(flags))
    assert len({guard.block for guard in guards}) == len(guards)


def test_every_guard_can_fail_or_warn_and_says_what_it_demands() -> None:
    for guard in GUARDS.builtin.values():
        assert guard.gates or (guard.name in ("generation", "readings") and guard.warnings)  # they only warn
        assert all(gate.words for gate in guard.gates)
        assert guard.judges
        assert guard.evidence or guard.name == "answers"  # which judges what others measured
