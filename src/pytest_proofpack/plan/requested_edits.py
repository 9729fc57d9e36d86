"""Which edit a scenario asks for, of one model: planner and verifier share the answer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.edit_kinds import EDITS
from pytest_proofpack.plan.edit_specs import CleanEdit, edit_from_tuned_entry, parse_edit_spec
from pytest_proofpack.plan.records import EditSpec, FaultSpec, RequestedEdit, Scenario

if TYPE_CHECKING:
    from pytest_proofpack.common.strict_json import JsonObject


@dataclass(frozen=True)
class Skipped:
    """A clean edit that the tuned-parameters file leaves out, and why."""

    reason: str


def requested_edit(scenario: Scenario, model_id: str, tuned: JsonObject) -> RequestedEdit | Skipped:
    """Return what a scenario does to a model, or why it is left out.

    Args:
        scenario: the scenario.
        model_id: the model.
        tuned: a tuned-parameters document, valid against its schema.

    Raises:
        ConfigurationError: an edit spec that is not understood, or no usable tuned parameters for a clean edit.
    """
    if scenario.subject is not None:
        return scenario.subject
    if scenario.error_type is not None:
        return FaultSpec(scenario.error_type)
    parsed = parse_edit_spec(str(scenario.edit_spec))
    if not isinstance(parsed, CleanEdit):
        return parsed
    entry = tuned_entry(tuned, model_id, parsed.type)
    if entry is None:
        raise ConfigurationError(
            f"no tuned parameters for the clean edit {parsed.type} of {model_id} (scenario {scenario.id}): add "
            f'models."{model_id}".{parsed.type}, or defaults.{parsed.type}, to the tuned-parameters file '
            "(--proofpack-tuned-edit-params)."
        )
    edit = edit_from_tuned_entry(parsed.type, entry, f"tuned parameters of {model_id}, {parsed.type}")
    return Skipped(str(entry.get("reason", "skipped by the tuned-parameters file"))) if edit is None else edit


def open_edit(scenario: Scenario, model_id: str, untuned: Collection[tuple[str, str]]) -> EditSpec | None:
    """Return the edit of a scenario without its parameters if these are still to be found; None if they are not.

    Args:
        scenario: the scenario.
        model_id: the model.
        untuned: model ids and types of the clean edits that are still to be tuned.
    """
    parsed = parse_edit_spec(scenario.edit_spec) if scenario.edit_spec is not None else None
    if isinstance(parsed, CleanEdit) and (model_id, parsed.type) in untuned:
        return EditSpec(parsed.type, parsed.scope, {})
    return None


def clean_edit(edit_type: str, model_id: str, tuned: JsonObject) -> EditSpec | None:
    """Return the clean edit that a tuned-parameters document has for a model; None if it has none, or skips it.

    Args:
        edit_type: the type; None is what comes of one that is not known here.
        model_id: the model.
        tuned: a tuned-parameters document, valid against its schema.

    Raises:
        ConfigurationError: its entry cannot be used.
    """
    entry = tuned_entry(tuned, model_id, edit_type) if edit_type in EDITS else None
    return None if entry is None else edit_from_tuned_entry(edit_type, entry, f"tuned parameters of {edit_type}")


def tuned_entry(tuned: JsonObject, model_id: str, edit_type: str) -> JsonObject | None:
    """Return the entry of a tuned-parameters document for an edit of a model: its own, or the default; None if none."""
    entry: JsonObject | None = tuned["models"].get(model_id, {}).get(edit_type)
    return entry or tuned.get("defaults", {}).get(edit_type)
