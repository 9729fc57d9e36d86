"""The rule for which certificates a run expects: planner and verifier come to the same, in the same order."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_proofpack.pack.layout import expected_path
from pytest_proofpack.plan.expected import certificate_folder, expected_certificates
from pytest_proofpack.plan.suites import EMBEDDED, load_suite, plan_certificates

PLAN: dict[str, Any] = {
    "suite": "s",
    "models": ["b", "a"],
    "runs": {"calibration": 2, "clean": 1, "stress": 0, "error": 1},
    "skipped": [{"model": "a", "scenario": "mild", "reason": "why"}],
}
SCENARIOS: list[dict[str, Any]] = [
    {
        "id": "mild",
        "category": "clean",
        "strictness": "must_pass",
        "generation": {"kind": "edit", "edit_spec": "quant_rtn:4:32:all"},
    },
    {
        "id": "hard",
        "category": "stress",
        "strictness": "informational",
        "generation": {"kind": "edit", "edit_spec": "no_such_edit:1:2:3:all"},
    },
    {
        "id": "nan",
        "category": "error_injection",
        "strictness": "informational",
        "generation": {"kind": "error", "error_type": "no_such_fault"},
    },
]


def test_models_scenarios_and_runs_less_what_is_skipped() -> None:
    """Neither edits nor faults have to be known for it."""
    assert list(expected_certificates({"scenarios": SCENARIOS, "plan": PLAN})) == [
        ("b", "calibration", 1),
        ("b", "calibration", 2),
        ("b", "mild", 1),
        ("b", "nan", 1),
        ("a", "calibration", 1),
        ("a", "calibration", 2),
        ("a", "nan", 1),
    ]


@pytest.mark.parametrize("name", EMBEDDED)
def test_what_is_planned_is_what_is_expected_and_lies_where_a_pack_has_it(name: str) -> None:
    suite = load_suite(name)
    plan = plan_certificates(suite)
    keys = [(request.model.id, request.scenario.id, request.run) for request in plan.requests]
    assert list(expected_certificates(plan.document(suite))) == keys
    for request in plan.requests:
        scenario = {"id": request.scenario.id, "category": request.scenario.category.value, "run": request.run}
        certificate = {"meta": {"model_id": request.model.id}, "scenario": scenario}
        folder, _, below = request.folder.partition("/certificates/")
        assert expected_path(certificate, suite.folders) == f"certs/{folder}/{below}/evaluation.cert.json"


def test_error_injections_lie_together() -> None:
    assert certificate_folder("mild", "clean", 3) == "mild/run_3"
    assert certificate_folder("nan", "error_injection", 1) == "errors/nan"
