"""Detectors: what a scenario lists as seeing its damage. Whoever makes a run may only list gates that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_proofpack.certificate.criteria import gate_titles
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import likeliest
from pytest_proofpack.errors import ConfigurationError

FLAG = "validation_flag"
"""The kind of detector that names a gate; what the others may name stands in the schema of scenarios."""


def detector_name(detector: Mapping[str, Any]) -> str:
    """Return what verdicts call a detector: the flag of its gate, ``primary_metric.FIELD`` or ``invariants``."""
    match detector["kind"]:
        case "validation_flag":
            return str(detector["flag"])
        case "primary_metric":
            return f"primary_metric.{detector['field']}"
    return "invariants"


def require_known_gates(document: JsonObject, source: str) -> None:
    """Make sure that every flag that a detector names is that of a gate, of the package or of a loaded extension.

    A flag that no certificate has never fires, and one that is no gate says nothing of damage. For who makes a run: who
    verifies a pack may lack the extension whose gate it is.

    Args:
        document: the scenarios, valid against their schema.
        source: where they come from, for the message.

    Raises:
        ConfigurationError: one is not; names the scenario and the likeliest gate.
    """
    titles = gate_titles()
    for scenario in document["scenarios"]:
        for index, detector in enumerate(scenario.get("requirements", {}).get("detectors_any_of", ())):
            if detector["kind"] == FLAG and detector["flag"] not in titles:
                raise ConfigurationError(
                    f"{source}: {scenario['id']}: requirements.detectors_any_of[{index}].flag: there is no gate "
                    f"{detector['flag']!r}. {_likely(detector['flag'], titles)}"
                )


def _likely(flag: str, titles: Mapping[str, str]) -> str:
    """Return which gate may be meant, by its flag or by what it is called in tables; else all that there are."""
    names = {title: known for known, title in titles.items()} | {known: known for known in titles}
    likely = likeliest(flag, names)
    return f"Did you mean {names[likely]!r}?" if likely else f"There are {', '.join(titles)}."
