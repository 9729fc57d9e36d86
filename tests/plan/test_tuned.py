"""The packaged tuned-parameters file and its defaults; test_suites.py has what is wrong with files of one's own."""

from __future__ import annotations

import json

from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.plan.edit_kinds import EDITS
from pytest_proofpack.plan.suites import packaged_tuned, suites_directory
from pytest_proofpack.plan.tuned import with_defaults


def test_the_packaged_defaults_are_what_the_edits_propose() -> None:
    tuned = packaged_tuned()
    assert schema_findings("tuned_edit_params", tuned) == []
    assert tuned["defaults"] == {
        "quant_rtn": {
            "status": "selected", "edit_dir_name": "quant_4bit_clean", "scope": "ffn", "bits": 4, "group_size": 32,
        },
        "fp8_quant": {"status": "selected", "edit_dir_name": "fp8_e5m2_clean", "scope": "ffn", "format": "e5m2"},
        "magnitude_prune": {
            "status": "selected", "edit_dir_name": "prune_12pct_clean", "scope": "ffn", "sparsity": 0.12,
        },
        "lowrank_svd": EDITS["lowrank_svd"].clean,
    }  # fmt: skip
    assert tuned["models"] == json.loads((suites_directory() / "tuned_edit_params.json").read_text())["models"]


def test_what_stands_in_a_document_comes_before_what_is_proposed() -> None:
    own = {"status": "skipped", "reason": "mine"}
    assert with_defaults({"models": {}, "defaults": {"quant_rtn": own}})["defaults"]["quant_rtn"] == own
