"""Tuning one clean edit of one model: certificates up and down its ladder, on windows that the run does not use."""

from __future__ import annotations

import copy
from dataclasses import replace

from pytest_proofpack.certificate.policy import Policy
from pytest_proofpack.certificate.reading import reading_of
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits.scope import select_matrices
from pytest_proofpack.engine.baseline import Baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.plan.climbing import Reading, climb, require_climbable
from pytest_proofpack.plan.edit_kinds import EDITS
from pytest_proofpack.plan.edit_specs import parse_scope, validated
from pytest_proofpack.plan.ladders import WHOLE_SCOPE, Ladder, Reach
from pytest_proofpack.plan.records import CertificateRequest, EditSpec, WindowPlan
from pytest_proofpack.plan.tuning import entry_of
from pytest_proofpack.runs.run import Run
from pytest_proofpack.text.apart import ApartText


def tune(run: Run, baseline: Baseline, request: CertificateRequest) -> JsonObject:
    """Find the strongest parameters of an edit that keep their distance from every limit.

    Returns:
        What came of it, JSON-able: ``model``, ``edit`` and ``scenario``; ``entry``, for the tuned-parameters document;
        ``tried``, every edit with what it read, ``chosen`` and ``beyond``, which of them was chosen and which is the
        next stronger one (null if there is none); ``measured``, what it was measured on.

    Raises:
        ConfigurationError: the edit's ladder is none, or does not fit the model.
        EvaluationError: the baseline's loss is not finite.
    """
    asked = request.edit
    assert isinstance(asked, EditSpec)
    ladder = EDITS[asked.type].ladder
    assert ladder is not None
    places, edits = _edits(ladder, asked, _reach(baseline, asked.scope))
    run = replace(run, policy=_with_tokens_of(run.policy, baseline.prepared.plan))
    measured: JsonObject = {}

    def read(place: int, rung: int) -> Reading:
        with edited_subject(run, baseline, replace(request, edit=edits[place][rung])) as subject:
            certificate = certify(run, subject)
        measured.update(_measured_on(certificate, baseline))
        return reading_of(certificate)

    found = climb(places, len(edits[0]), read)
    tried = [edits[step.place][step.rung] for step in found.steps]
    numbers = {id(step): number for number, step in enumerate(found.steps)}
    return {
        "model": request.model.id,
        "edit": asked.type,
        "scenario": request.scenario.id,
        "entry": entry_of(request, tried, found),
        "tried": [
            {"scope": edit.scope, "parameters": dict(edit.parameters), **step.reading.to_json()}
            for edit, step in zip(tried, found.steps, strict=True)
        ],
        "chosen": None if found.chosen is None else numbers[id(found.chosen)],
        "beyond": None if found.beyond is None else numbers[id(found.beyond)],
        "measured": measured,
    }


def _edits(ladder: Ladder, asked: EditSpec, reach: Reach) -> tuple[int, list[list[EditSpec]]]:
    """Return how many places there are, and for each the edits of all rungs."""
    scope = parse_scope(asked.scope)
    narrowed = scope.layer is not None or scope.first_layers is not None  # the scenario has chosen the place
    places = WHOLE_SCOPE if narrowed else ladder.places(reach)
    rungs = ladder.rungs(reach)
    require_climbable(asked.type, len(places), len(rungs))
    edits = [[validated(EditSpec(asked.type, asked.scope + place, rung)) for rung in rungs] for place in places]
    return len(places), edits


def _reach(baseline: Baseline, scope: str) -> Reach:
    views = select_matrices(baseline.model, baseline.layout, scope)
    return Reach(baseline.layout.block_count, min(min(view.shape) for view in views))


def _with_tokens_of(policy: Policy, plan: WindowPlan) -> Policy:
    """Return a policy that demands no more tokens than tuning has windows for.

    With fewer windows the interval is wider, and its upper end counts, so this tunes no bolder.
    """
    tokens = (plan.preview + plan.final) * (plan.seq_len - 1)
    thresholds = copy.deepcopy(policy.thresholds)
    rules = thresholds["primary_metric"]
    rules["min_tokens"] = min(rules["min_tokens"], tokens)
    return replace(policy, thresholds=thresholds)


def _measured_on(certificate: JsonObject, baseline: Baseline) -> JsonObject:
    """Return what a certificate says of model, text and windows; the same for every edit of a model."""
    meta, dataset, provenance = certificate["meta"], certificate["dataset"], certificate["provenance"]
    text = baseline.prepared.text
    assert isinstance(text, ApartText)
    return {
        "model_digest": provenance["model_digest"]["baseline"],
        "revision": meta["revision"],
        "tokenizer_hash": meta["tokenizer_hash"],
        "device": meta["device"],
        "determinism": meta["determinism"],
        "text_sha256": dataset["hash"]["text"],
        "windows": {
            "seq_len": dataset["seq_len"],
            "preview": dataset["windows"]["preview"],
            "final": dataset["windows"]["final"],
            "available": dataset["windows"]["available"],
            "seed": meta["seeds"]["edit"],
            "shared_with_other_kinds": text.shared,
            "ids_sha256": provenance["provider_digest"]["ids_sha256"],
        },
    }
