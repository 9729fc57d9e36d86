"""The one rule for which certificates a run expects, and where each of them lies: planner and verifier share it."""

from __future__ import annotations

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.plan.records import Category, Scenario
from pytest_proofpack.plan.scenarios import CALIBRATION, RUNS_OF, parse_scenarios

Key = tuple[str, str, int]
"""Model id, scenario id, run."""


def all_scenarios(document: JsonObject) -> list[Scenario]:
    """Return the scenarios of a run: calibration, and then those of its document, which is valid against its schema."""
    return [CALIBRATION, *parse_scenarios(document)]


def expected_certificates(document: JsonObject) -> dict[Key, Scenario]:
    """List what a run's ``state/scenarios.json`` expects, model by model, in the order of the scenarios.

    Args:
        document: a scenarios document with its ``plan`` (models, runs, skipped), valid against its schema.
    """
    plan = document["plan"]
    skipped = {(entry["model"], entry["scenario"]) for entry in plan["skipped"]}
    scenarios = all_scenarios(document)
    return {
        (model, scenario.id, run): scenario
        for model in plan["models"]
        for scenario in scenarios
        if (model, scenario.id) not in skipped
        for run in range(1, plan["runs"][RUNS_OF[scenario.category]] + 1)
    }


def certificate_folder(scenario_id: str, category: str, run: int) -> str:
    """Return a certificate's folder below those of its model, in a run's directory as in a pack: ``SCENARIO/run_N``.

    Error injections lie together; one of them has one run.
    """
    return f"errors/{scenario_id}" if category == Category.ERROR else f"{scenario_id}/run_{run}"
