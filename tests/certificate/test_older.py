from __future__ import annotations

from pytest_proofpack.certificate.criteria import METRIC_CRITERIA
from pytest_proofpack.certificate.formats import CURRENT, FORMAT_1
from pytest_proofpack.certificate.older import format_words, gates_lacking, lacking_words
from pytest_proofpack.guards.registry import GUARDS


def test_every_gate_is_there_or_lacking() -> None:
    lacking = gates_lacking(FORMAT_1)
    there = [
        gate.flag for guard in GUARDS.builtin.values() if guard.name in (FORMAT_1.guards or ()) for gate in guard.gates
    ]
    metric = {gate.flag for judge in METRIC_CRITERIA for gate in judge.gates}
    assert {"answers_kept", "direction_kept", "label_holds"} <= set(lacking)
    assert not metric & set(lacking)
    assert sorted([*lacking, *there]) == sorted(g.flag for guard in GUARDS.builtin.values() for g in guard.gates)


def test_what_is_said_of_it() -> None:
    assert lacking_words(FORMAT_1).startswith("lacks the gates ")
    assert (gates_lacking(CURRENT), lacking_words(CURRENT), format_words(CURRENT)) == ((), "", "")
    assert format_words(FORMAT_1) == f"format 1, which {lacking_words(FORMAT_1)}"
