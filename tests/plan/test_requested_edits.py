"""Which edit a scenario asks for: one answer for edits, clean edits, faults and models edited elsewhere."""

from __future__ import annotations

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import Category, EditSpec, FaultSpec, Scenario, Strictness, SubjectEdit
from pytest_proofpack.plan.requested_edits import Skipped, requested_edit, tuned_entry

OWN: JsonObject = {"status": "selected", "scope": "attn", "rank": 4}
SKIPPED: JsonObject = {"status": "skipped", "reason": "not tuned"}
TUNED: JsonObject = {"models": {"acme/a": {"lowrank_svd": OWN}}, "defaults": {"lowrank_svd": SKIPPED}}


def scenario(**what: object) -> Scenario:
    return Scenario("x", Category.CLEAN, Strictness.MUST_PASS, **what)  # type: ignore[arg-type]


def test_each_kind() -> None:
    subject = SubjectEdit("merged", "given", "acme/b")
    clean = scenario(edit_spec="lowrank_svd:clean:ffn")
    assert requested_edit(scenario(edit_spec="noop"), "m", TUNED) == EditSpec("noop", "", {})
    assert requested_edit(scenario(edit_spec="lowrank_svd:2:all"), "m", TUNED) == EditSpec(
        "lowrank_svd", "all", {"rank": 2}
    )
    assert requested_edit(clean, "acme/a", TUNED) == EditSpec("lowrank_svd", "attn", {"rank": 4})
    assert requested_edit(clean, "acme/b", TUNED) == Skipped("not tuned")
    assert requested_edit(scenario(error_type="no_such_fault"), "m", TUNED) == FaultSpec("no_such_fault")
    assert requested_edit(scenario(subject=subject), "m", TUNED) is subject


def test_a_clean_edit_that_nobody_tuned() -> None:
    with pytest.raises(ConfigurationError, match=r'add models\."acme/a"\.quant_rtn, or defaults\.quant_rtn'):
        requested_edit(scenario(edit_spec="quant_rtn:clean:ffn"), "acme/a", TUNED)


def test_an_entry_of_the_model_comes_before_the_default() -> None:
    assert tuned_entry(TUNED, "acme/a", "lowrank_svd") == OWN
    assert tuned_entry(TUNED, "acme/b", "lowrank_svd") == SKIPPED
    assert tuned_entry({"models": {}}, "acme/b", "lowrank_svd") is None
