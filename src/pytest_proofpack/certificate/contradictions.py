"""What in one certificate contradicts something else in it, though each follows from its own evidence.

Every block is recomputed from its own evidence; here the evidence of one is held against that of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_proofpack.certificate.derive import is_loaded
from pytest_proofpack.certificate.tool_products import tool_findings
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.vocabulary_growth import GROWN
from pytest_proofpack.plan.edit_kinds import EDITS
from pytest_proofpack.plan.quantization import contradicts_form, recorded_label

_NO_DIVERGENCE = 1e-9
"""Nats per token, of the mean KL: what is left of rounding where nothing differs is below it in every test."""
_MOVED = 0.01
"""Of the logarithm of the perplexity ratio: more cannot come of distributions that are equal in their first places."""
_NOISE = {"cpu": 1e-6}
_NOISE_ELSEWHERE = 1e-3
"""Nats per token by which two measures of equal weights may differ; on accelerators the batch may have been another."""
_BELOW_HALF = 1e-3
"""Nats per token: rounding of the rule that a token that is not chosen has at most half of the probability."""

_EXPLAINED_BY = {
    "missing": "missing_tensors",
    "not_finite": "non_finite",
}
"""State of a tensor in the spectral tables -> kind of violation that has to stand beside it."""


def contradictions(certificate: JsonObject) -> Iterator[str]:
    """Name what the certificate's blocks contradict in each other; each has been recomputed by itself.

    Yields:
        one line each, naming the fields.
    """
    yield from _tensor_findings(certificate)
    yield from _edit_findings(certificate)
    yield from _unchanged_findings(certificate)
    yield from _distribution_findings(certificate)
    yield from _form_findings(certificate)
    yield from tool_findings(certificate)


def _tensor_findings(certificate: JsonObject) -> Iterator[str]:
    """Hold the tables of tensors against what the invariants found, and against what the edit changed."""
    spectral, kinds = certificate["spectral"], {own["kind"] for own in certificate["invariants"]["violations"]}
    states = _states(certificate)
    for state, kind in _EXPLAINED_BY.items():
        if state in states.values() and kind not in kinds and not _lacked_before(certificate, state):
            yield f"spectral: a tensor is {state}, and invariants.violations has no {kind}"
    if spectral["reshaped"] and not kinds & {"shape", GROWN}:
        yield "spectral.reshaped: invariants.violations has no shape"
    if GROWN in kinds and not spectral["reshaped"]:
        yield f"spectral.reshaped: names nothing, and invariants.violations has {GROWN}"
    if spectral["added"] and not kinds & {"unexpected_tensors", "tying"}:
        yield "spectral.added: invariants.violations has no unexpected_tensors"
    if is_loaded(certificate):
        return  # derive holds its changes against both
    changed = set(certificate["structure"]["parameters_changed"])
    touched = {name.partition("[")[0] for name, state in states.items() if state != "same"}
    known = {name.partition("[")[0] for name in states}
    for name in sorted(touched - changed):
        yield f"spectral: {name} is not the baseline's, and structure.parameters_changed does not name it"
    for name in sorted(changed & known - touched):
        yield f"structure.parameters_changed: names {name}, all of which is the baseline's in spectral"


def _form_findings(certificate: JsonObject) -> Iterator[str]:
    """Hold what the edit is called against what is recorded of the files, where these say it of themselves."""
    if "readings" not in certificate:
        return  # certificates of format 1 do not say it
    edit, readings = certificate["provenance"]["edit"], certificate["readings"]
    try:
        label = recorded_label(readings["quantization"])
    except (FormatError, TypeError) as error:
        yield f"readings.quantization: {error}"
        return
    if label is None:
        return
    if certificate["label"]["origin"] == "files" and edit["type"] != label:
        yield f"provenance.edit.type: {edit['type']!r:.100}, and readings.quantization is called {label!r}"
    if certificate["label"]["origin"] in ("inferred", "default") or contradicts_form(edit["type"], label):
        yield f"label.origin: the files say of themselves that they are {label!r}"


def _states(certificate: JsonObject) -> dict[str, str]:
    tables = certificate["spectral"]["matrices"], certificate["spectral"]["vectors"]
    return {name: state for table in tables for name, state in zip(table["name"], table["state"], strict=True)}


def _lacked_before(certificate: JsonObject, state: str) -> bool:
    """Tell whether a tensor may be in this state because the baseline's is."""
    return state == "not_finite" and certificate["invariants"]["baseline"]["non_finite"] > 0


def _edit_findings(certificate: JsonObject) -> Iterator[str]:
    """Hold the facts that an edit left against its parameters and the matrices that changed."""
    edit, facts = certificate["provenance"]["edit"], certificate["structure"].get("edit_details")
    record = EDITS.get(edit["type"])
    if is_loaded(certificate) or record is None or facts is None:
        return
    facts, taken = {**facts}, facts.get("scope_taken")
    facts.pop("scope_taken", None)
    if taken is not None and not _can_stand_for(taken, str(edit["scope"]).partition("@")[0], certificate):
        yield f"structure.edit_details.scope_taken: {taken!r:.80} is nothing that {edit['scope']!r:.80} can stand for"
        return
    try:
        possible = record.possible(facts, edit["parameters"])
    except (LookupError, TypeError, ValueError):
        possible = False
    if not possible:
        yield f"structure.edit_details: {facts!r:.200} cannot come of {edit['type']} with {edit['parameters']!r:.200}"
        return
    table = certificate["spectral"]["matrices"]
    touched = sum(state != "same" for state in table["state"])
    if facts.get("matrices", touched) != touched:
        yield f"structure.edit_details.matrices: {facts['matrices']!r:.20}, and {touched} matrices changed in spectral"


def _can_stand_for(taken: object, asked: str, certificate: JsonObject) -> bool:
    """Tell whether a scope can have stood for all: no block has a matrix of the group that it names."""
    listed = certificate["invariants"]["tensors"]
    rows = zip(listed["family"], listed["block"], listed["matrices"], strict=True)
    has_any = any(group == asked and block is not None and matrices for group, block, matrices in rows)
    return taken == "all" and asked in ("ffn", "attn") and not has_any


def _unchanged_findings(certificate: JsonObject) -> Iterator[str]:
    """Where no weight and nothing else of the model differs, nothing that was measured may."""
    digests, invariants = certificate["provenance"]["model_digest"], certificate["invariants"]
    if digests["subject"] != digests["baseline"]:
        return
    noise = _NOISE.get(certificate["meta"]["device"], _NOISE_ELSEWHERE)
    kinds = {own["kind"] for own in invariants["violations"]} - {"layout"}  # which is of the baseline itself
    if kinds or set(_states(certificate).values()) - {"same", "not_finite"}:
        yield "provenance.model_digest: the subject is the baseline, and yet its structure or weights differ"
    for side in ("preview", "final"):
        windows = certificate["evaluation_windows"][side]
        pairs = zip(windows["logloss"], windows["baseline_logloss"], strict=True)
        if any(_apart(one, other, noise) for one, other in pairs):
            yield f"evaluation_windows.{side}: the subject is the baseline, and yet their losses differ"
    final = certificate["distribution"]["final"]
    if any(kl is not None and kl > noise for kl in final["kl_mean"]):
        yield "distribution.final.kl_mean: the subject is the baseline, and yet their distributions differ"
    for block in ("rmt", "variance"):
        rows = certificate[block]["branches"].values()
        if any(_apart(row["cur"], row["base"], noise * max(1.0, abs(row["base"] or 0.0))) for row in rows):
            yield f"{block}.branches: the subject is the baseline, and yet their sublayers differ"


def _apart(one: float | None, other: float | None, noise: float) -> bool:
    if one is None or other is None:
        return one is not other
    return abs(one - other) > noise


def _distribution_findings(certificate: JsonObject) -> Iterator[str]:
    """Hold divergence and choices against the losses of the same windows."""
    block, metric = certificate["distribution"], certificate["primary_metric"]
    if block["invalid"] or block["kl_mean"] is None:
        return
    ratio = metric.get("ratio_vs_baseline")
    if block["kl_mean"] <= _NO_DIVERGENCE and ratio is not None and abs(math.log(ratio)) > _MOVED:
        yield f"distribution.kl_mean: {block['kl_mean']!r} beside a perplexity ratio of {ratio!r}"
    final, windows = block["final"], certificate["evaluation_windows"]["final"]
    rights = {
        "baseline_logloss": final["baseline_right"],
        "logloss": [
            right - lost + gained
            for right, lost, gained in zip(
                final["baseline_right"], final["right_to_wrong"], final["wrong_to_right"], strict=True
            )
        ],
    }
    for key, right in rights.items():
        # A token that is not the most probable one has at most half of the probability.
        rows = zip(windows[key], windows["token_counts"], right, strict=False)
        for number, (loss, count, chosen) in enumerate(rows):
            least = (count - chosen) / count * math.log(2)
            if loss is not None and loss < least - _BELOW_HALF:
                yield (
                    f"evaluation_windows.final.{key}: {loss!r} in window {number}, where {count - chosen} of {count} "
                    f"tokens are not the most probable ones, so it is at least {least!r}"
                )
                break
