"""Which clean edits of which models are to be tuned, and the tuned-parameters document that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_proofpack.plan.climbing import MARGIN, Climb
from pytest_proofpack.plan.edit_kinds import EDITS
from pytest_proofpack.plan.edit_specs import CleanEdit, parse_edit_spec
from pytest_proofpack.plan.records import CertificateRequest, EditSpec, ModelSpec, Scenario
from pytest_proofpack.plan.requested_edits import tuned_entry
from pytest_proofpack.plan.scenarios import RUNS_OF, parse_scenarios

if TYPE_CHECKING:
    from pytest_proofpack.common.strict_json import JsonObject
    from pytest_proofpack.plan.suites import Suite

TUNING_RUN = 0
"""The number of the run that stands for tuning; those of certificates count from 1."""
_NO_LADDER = "its edit has no ladder, so it cannot be tuned"


def clean_edits(suite: Suite) -> Iterator[tuple[Scenario, CleanEdit]]:
    """Yield the scenarios that a suite runs and whose parameters are tuned, each with its edit."""
    for scenario in parse_scenarios(suite.scenarios):
        if scenario.edit_spec is not None and suite.runs[RUNS_OF[scenario.category]]:
            edit = parse_edit_spec(scenario.edit_spec)
            if isinstance(edit, CleanEdit):
                yield scenario, edit


def judged_runs(suite: Suite) -> int:
    """Return how many draws of windows a suite measures tuned edits on: those of the runs 1 up to it."""
    return max((suite.runs[RUNS_OF[scenario.category]] for scenario, _ in clean_edits(suite)), default=0)


def tuning_requests(suite: Suite, *, untuned_only: bool) -> tuple[CertificateRequest, ...]:
    """Return what there is to tune, model by model: one request per type of clean edit that has a ladder.

    The edit of a request has no parameters yet. Its scope is that of the first scenario that asks for the type.

    Args:
        suite: the suite.
        untuned_only: leave out what the tuned-parameters document has for the model itself, not by default.
    """
    found: dict[tuple[str, str], CertificateRequest] = {}
    for model in suite.models:
        for scenario, edit in clean_edits(suite):
            listed = edit.type in suite.tuned["models"].get(model.id, {})
            if EDITS[edit.type].ladder is not None and not (listed and untuned_only):
                found.setdefault((model.id, edit.type), _request(suite, model, scenario, edit))
    return tuple(found.values())


def _request(suite: Suite, model: ModelSpec, scenario: Scenario, edit: CleanEdit) -> CertificateRequest:
    return CertificateRequest(
        model=model,
        scenario=scenario,
        run=TUNING_RUN,
        id=f"{model.id}-{edit.type}",
        folder=f"{suite.folders[model.id]}/tuning/{edit.type}",
        edit=EditSpec(edit.type, edit.scope, {}),
    )


def entry_of(request: CertificateRequest, tried: list[EditSpec], found: Climb) -> JsonObject:
    """Return the entry of a tuned-parameters document for a finished climb.

    Args:
        request: what was tuned.
        tried: the edit of every step of the climb.
        found: the climb.
    """
    if found.chosen is None:
        gentlest = found.steps[-1].reading
        reasons = gentlest.failed_gates or gentlest.beyond_margin
        why = f"tuning: even the gentlest rung of its ladder comes too near to a limit ({', '.join(reasons)})"
        return {"status": "skipped", "edit_dir_name": request.scenario.id, "reason": why[:400]}
    edit = tried[found.steps.index(found.chosen)]
    return {"status": "selected", "edit_dir_name": request.scenario.id, "scope": edit.scope, **edit.parameters}


def tuned_document(suite: Suite, results: Iterable[JsonObject], facts: Mapping[str, object]) -> JsonObject:
    """Return the tuned-parameters document of a tuning session.

    Clean edits that have no ladder keep the entry that the suite's document has, and are skipped where it has none.

    Args:
        suite: the suite, with the models that were tuned.
        results: what came of every request, see :func:`pytest_proofpack.engine.tuning.tune`.
        facts: what ``_meta.tuning`` says of the session besides.
    """
    models: dict[str, dict[str, JsonObject]] = {model.id: {} for model in suite.models}
    evidence: dict[str, JsonObject] = {}
    for result in results:
        models[result["model"]][result["edit"]] = result["entry"]
        of_model = evidence.setdefault(result["model"], {**result["measured"], "edits": {}})
        of_model["edits"][result["edit"]] = {name: result[name] for name in ("chosen", "beyond", "tried")}
    for model_id, entries in models.items():
        for _, edit in clean_edits(suite):
            if edit.type not in entries and EDITS[edit.type].ladder is None:
                kept = tuned_entry(suite.tuned, model_id, edit.type)
                entries[edit.type] = kept or {"status": "skipped", "reason": _NO_LADDER}
    meta = {"schema": "tuned_edit_params_v1", "tuning": {**facts, "margin": MARGIN, "models": evidence}}
    return {"_meta": meta, "models": models}


def with_tuned(before: JsonObject, tuned: JsonObject, pairs: Iterable[tuple[str, str]]) -> JsonObject:
    """Return a tuned-parameters document with entries of another one for some edits, and what that says of them.

    Args:
        before: the document that is added to.
        tuned: the document that has been made.
        pairs: model ids and edit types of the entries to take, as far as they are there.
    """
    models = {model: dict(entries) for model, entries in before["models"].items()}
    for model, edit_type in pairs:
        entry = tuned["models"].get(model, {}).get(edit_type)
        if entry is not None:
            models.setdefault(model, {})[edit_type] = entry
    evidence = tuned["_meta"].get("tuning")
    meta = {**before["_meta"], **({"tuning": evidence} if evidence is not None else {})}
    return {**before, "_meta": meta, "models": models}


def chosen_words(result: JsonObject) -> str:
    """Return what was chosen, and what it read, for people."""
    if result["chosen"] is None:
        return f"skipped: {result['entry']['reason']}"
    return _step_words(result["tried"][result["chosen"]], str)


def beyond_words(result: JsonObject, gate: Callable[[str], str] = str) -> str:
    """Return what the next stronger parameters read, for people; ``gate`` returns the name of a gate in words."""
    if result["beyond"] is None:
        return "the strongest on its ladder"
    return f"next stronger: {_step_words(result['tried'][result['beyond']], gate)}"


def _step_words(step: JsonObject, gate: Callable[[str], str]) -> str:
    parameters = ", ".join(f"{name} {value}" for name, value in step["parameters"].items())
    read = "ratio not defined"
    if step["ratio"] is not None:
        low, high = step["interval"]
        read = f"ratio {step['ratio']:.4g} [{low:.4g}, {high:.4g}]"
    if step["failed_gates"]:
        read += f"; not held: {', '.join(map(gate, step['failed_gates']))}"
    elif not step["holds"]:
        near = [name for name, strain in step["strains"].items() if strain is None or strain > MARGIN]
        read += f", too near the limit of {', '.join(near)}"
    return f"{parameters}, {step['scope']}: {read}"
