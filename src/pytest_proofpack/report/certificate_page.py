"""``evaluation.html``: one self-contained page for one certificate."""

from __future__ import annotations

from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.plan.edit_kinds import words_of
from pytest_proofpack.report.figures import interval_figure, loss_figure
from pytest_proofpack.report.gates import gate_rows
from pytest_proofpack.report.rendering import is_short, render


def certificate_html(certificate: JsonObject) -> str:
    """Return the page of a certificate that is valid against its schema: UTF-8 HTML, deterministic, no script.

    Its strings may be hostile, its guards' blocks may hold anything that JSON can.
    """
    from pytest_proofpack.guards.registry import GUARDS

    own = [(name, *_guard(certificate[name])) for name in GUARDS.builtin if name != "invariants"]  # it has a section
    edit = certificate["provenance"]["edit"]
    return render(
        "certificate.html.j2",
        certificate=certificate,
        loss_figure=loss_figure(certificate),
        interval_figure=interval_figure(certificate),
        gates=gate_rows(certificate),
        guards=own,
        foreign=[(name, *_guard({"evaluated": True, **block})[1:]) for name, block in _foreign(certificate)],
        edit_words=words_of(edit["type"]) if "source" not in edit else "",  # a label proves nothing
        edit={key: value for key, value in edit.items() if key != "sha256"},
        changes=_changes(certificate["structure"]),
        non_finite_windows=_non_finite_windows(certificate["evaluation_windows"]),
    )


def _changes(structure: JsonObject) -> dict[str, Any] | None:
    """Return what separates a loaded subject from its baseline; None for a model edited in memory."""
    if "summary" not in structure:
        return None
    summary, names = structure["summary"], structure["changes"]
    return {
        "facts": {key: value for key, value in summary.items() if key not in ("families", "digests")},
        "families": summary["families"],
        "lists": {kind: names[kind] for kind in ("added", "removed", "reshaped")},
    }


def _foreign(certificate: JsonObject) -> list[tuple[str, JsonObject]]:
    """Return what the guards of extensions derived, with the thresholds that they were judged by."""
    blocks = certificate.get("foreign_guards", {})
    return [(name, {**block["derived"], "policy": block["policy"]}) for name, block in blocks.items()]


def _guard(block: JsonObject) -> tuple[bool, dict[str, Any], dict[str, Any]]:
    """Split a guard's block: was it evaluated, its plain facts, its tables."""
    facts = {key: value for key, value in block.items() if key != "evaluated"}
    nested = {key: value for key, value in facts.items() if _is_table(value)}
    return bool(block["evaluated"]), {k: v for k, v in facts.items() if k not in nested}, nested


def _is_table(value: object) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, dict | list) for item in value)
    return isinstance(value, dict) and not is_short(value)


def _non_finite_windows(evidence: JsonObject) -> str:
    counts = {name: windows["logloss"].count(None) for name, windows in evidence.items()}
    sizes = {name: len(windows["logloss"]) for name, windows in evidence.items()}
    return ", ".join(f"{counts[name]} of {sizes[name]} {name} windows" for name in ("preview", "final"))
