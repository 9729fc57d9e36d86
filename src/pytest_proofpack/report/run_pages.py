"""``index.html`` and ``README.md``: a whole run at a glance, and how a stranger checks its pack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_proofpack.certificate.repeats import describe
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.plan.records import Category, Strictness
from pytest_proofpack.report import formatting
from pytest_proofpack.report.rendering import relative_url, render

Links = Mapping[tuple[str, str, int], str]
"""Relative path of a report by model id, scenario id and run."""

SIGNED = "signed"
"""The signing status that says there is a signature; every other one means that there is none."""

_CATEGORIES = {
    Category.CALIBRATION: "Calibration, nothing edited",
    Category.CLEAN: "Clean edits",
    Category.STRESS: "Stress edits",
    Category.ERROR: "Injected errors",
    Category.BYOE: "Models edited elsewhere",
}
_DEMANDS = {
    Strictness.MUST_PASS: "must pass",
    Strictness.MUST_FAIL: "must fail, seen by a listed detector",
    Strictness.MUST_DETECT: "must be seen by a listed detector",
    Strictness.INFORMATIONAL: "informational, never part of the verdict",
}


_JUDGED = {
    "expected": "as expected",
    "unexpected": "not as expected",
    "informational": "informational",
    "missing": "missing",
}


class SignerWords(Protocol):
    """The words of ours with which a signer is described: see :class:`pytest_proofpack.pack.signers.Signer`."""

    files: Mapping[str, str]
    check_by_hand: str
    caution: str


@dataclass(frozen=True)
class Run:
    """One certificate in a cell of the index.

    ``state`` is ``expected``, ``unexpected``, ``informational`` or ``missing``, ``judged`` says it in words; ``gates``
    names the failed ones; ``url`` is a quoted relative URL.
    """

    number: int
    ratio: str
    outcome: str
    state: str
    gates: str = ""
    url: str | None = None

    @property
    def judged(self) -> str:
        """The state in words."""
        return _JUDGED[self.state]

    @property
    def sign(self) -> str:
        """The state's sign: ``good``, ``bad`` or none."""
        return {"expected": "good", "informational": ""}.get(self.state, "bad")


@dataclass(frozen=True)
class ScenarioRow:
    """One row of the index: the runs of one scenario, per model; or why a model has none."""

    scenario: str
    cells: list[tuple[list[Run], str | None]]


def index_html(verdict: JsonObject, manifest_facts: JsonObject, links: Links) -> str:
    """Return the page of a whole run.

    Args:
        verdict: as :func:`pytest_proofpack.certificate.verdict.compute_verdict` makes it.
        manifest_facts: ``suite``, ``generated_at``, ``determinism``, ``determinism_repeats``, ``network_mode``,
            ``models``, ``tool``, ``signing``; what is missing is left out.
        links: where the report of a certificate lies; a certificate without one is shown without a link.

    Raises:
        FormatError: a link does not lie below the page's own folder.
    """
    entries = [*verdict["certificates"], *verdict["missing"], *verdict["skipped"]]
    models = formatting.unique([*_model_ids(manifest_facts), *(entry["model"] for entry in entries)])
    repeats = manifest_facts.get("determinism_repeats")
    return render(
        "index.html.j2",
        verdict=verdict,
        repeats=describe(repeats) if repeats is not None else None,
        facts=manifest_facts,
        signed=_is_signed(manifest_facts),
        models=models,
        revisions={entry["model_id"]: entry.get("revision") for entry in manifest_facts.get("models", [])},
        groups=_groups(verdict, models, links),
        demands={kind.value: text for kind, text in _DEMANDS.items()},
    )


def pack_readme(manifest_facts: JsonObject, signer: SignerWords, attestation: str | None = None) -> str:
    """Return the README.md of a pack.

    Args:
        manifest_facts: as in :func:`index_html`, and the ``verdict`` if known.
        signer: the one that signed, or that would have.
        attestation: name of the file with the attestation; None if there is none.
    """
    return render(
        "pack_readme.md.j2",
        facts=manifest_facts,
        signed=_is_signed(manifest_facts),
        signer=signer,
        attestation=attestation,
    )


def _is_signed(facts: JsonObject) -> bool:
    return bool(facts.get("signing", {}).get("status") == SIGNED)


def _model_ids(facts: JsonObject) -> Iterable[str]:
    return (entry["model_id"] for entry in facts.get("models", []))


def _groups(verdict: JsonObject, models: list[str], links: Links) -> list[tuple[str, list[ScenarioRow]]]:
    """Return the index's rows under their headings: one per category and demand, in the order of the verdict."""
    kinds = {row["scenario"]: _heading(row) for row in verdict["certificates"]}
    entries = [*verdict["certificates"], *verdict["missing"], *verdict["skipped"]]
    by_heading: dict[str, list[str]] = {}
    for scenario in formatting.unique(entry["scenario"] for entry in entries):
        by_heading.setdefault(kinds.get(scenario, "Without any certificate"), []).append(scenario)
    return [
        (heading, [_scenario_row(verdict, scenario, models, links) for scenario in scenarios])
        for heading, scenarios in by_heading.items()
    ]


def _heading(row: Mapping[str, Any]) -> str:
    return f"{_CATEGORIES[Category(row['category'])]}: {_DEMANDS[Strictness(row['strictness'])]}"


def _scenario_row(verdict: JsonObject, scenario: str, models: list[str], links: Links) -> ScenarioRow:
    entries = [*verdict["certificates"], *verdict["missing"]]
    skipped = {entry["model"]: entry["reason"] for entry in verdict["skipped"] if entry["scenario"] == scenario}
    cells = []
    for model in models:
        found = [entry for entry in entries if (entry["model"], entry["scenario"]) == (model, scenario)]
        runs = [_run(entry, links) for entry in sorted(found, key=lambda entry: int(entry["run"]))]
        cells.append((runs, skipped.get(model)))
    return ScenarioRow(scenario, cells)


def _run(entry: Mapping[str, Any], links: Links) -> Run:
    number = entry["run"]
    if "passed" not in entry:
        return Run(number, formatting.ABSENT, "missing", "missing")
    if entry["strictness"] == Strictness.INFORMATIONAL:
        state = "informational"
    else:
        state = "expected" if entry["as_expected"] else "unexpected"
    outcome = "pass" if entry["passed"] else "fail"
    failed = [formatting.short_gate(gate) for gate in entry["failed_gates"]]
    gates = formatting.listing(failed) if failed else ""
    path = links.get((entry["model"], entry["scenario"], number))
    return Run(number, formatting.row_ratio(entry), outcome, state, gates, relative_url(path) if path else None)
