"""Part of the verdict's step: whether every certificate is of the edit that its scenario asks for.

An edit may be an extension's that the verifier has not got. Its spec is then compared with the certificate as far as
text goes, type by type, scope by scope and value by value; what only the extension knows is said in a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from pytest_proofpack.certificate.verdict import certificate_key
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.layout import Layout
from pytest_proofpack.pack.steps import StepOutcome
from pytest_proofpack.plan.edit_kinds import EDITS, ENTRY_KEYS
from pytest_proofpack.plan.edit_specs import SpecText, split_edit_spec
from pytest_proofpack.plan.expected import Key
from pytest_proofpack.plan.records import Scenario
from pytest_proofpack.plan.requested_edits import Skipped, requested_edit, tuned_entry
from pytest_proofpack.plan.scenarios import parse_scenarios
from pytest_proofpack.plan.tool_edits import foreign_facts, foreign_tool, is_tool_spec


class Planned(Protocol):
    """Certificates and the plan that they follow: those of a pack, or of a run's directory."""

    @property
    def documents(self) -> Mapping[str, JsonObject]:
        """Documents by path, the tuned parameters among them if there are any."""

    @property
    def layout(self) -> Layout:
        """Where things lie."""

    @property
    def certificate_documents(self) -> Mapping[str, JsonObject]:
        """The certificates by path."""

    @property
    def scenarios(self) -> JsonObject:
        """The scenarios document with its plan."""

    @property
    def expected(self) -> Mapping[Key, Scenario]:
        """Which certificates the plan expects."""

    def sha256(self, value: object) -> str:
        """Return the digest of a JSON value by the canonical form of the certificates' format."""


def check_edits(structure: Planned) -> StepOutcome:
    """Compare every certificate's edit with its scenario, and what the plan skips with the tuned parameters."""
    tuned = structure.documents.get(structure.layout.tuned, {"models": {}})
    findings: list[str] = []
    unknown: Counter[str] = Counter()
    for path, certificate in structure.certificate_documents.items():
        scenario = structure.expected.get(certificate_key(certificate))
        if scenario is None:
            continue  # the verdict has it under "unexpected"
        foreign = _foreign_spec(scenario)
        if foreign is not None:
            tool = foreign_tool(str(scenario.edit_spec))
            unknown[foreign.type if tool is None else f"{foreign.type}:{tool}"] += 1
        findings += _scenario_findings(path, certificate, scenario, structure)
        findings += _edit_findings(path, certificate, scenario, tuned, structure)
    findings += _skipped_findings(structure.scenarios, tuned, structure)
    warnings = tuple(
        f"{structure.layout.scenarios}: the edit {name!r} of {number} certificates is not known here: type, scope and "
        "values are those that the scenarios ask for, but whether its parameters are called and limited so was not "
        "checked. Verify with the extension that it comes from"
        for name, number in sorted(unknown.items())
    )
    return StepOutcome(tuple(findings), warnings)


def _scenario_findings(path: str, certificate: JsonObject, scenario: Scenario, structure: Planned) -> Iterator[str]:
    category = certificate["scenario"]["category"]
    if category != scenario.category.value:
        yield f"{path}: scenario.category: recorded {category!r}, the scenario is {scenario.category.value!r}"
    digest = certificate["provenance"]["model_digest"]["subject"]
    if scenario.subject is not None and digest != scenario.subject.digest:
        where = structure.layout.scenarios
        yield f"{path}: provenance.model_digest.subject: recorded {digest}, {where}: {scenario.subject.digest}"
    origin = certificate.get("label", {}).get("origin")  # certificates of format 1 do not say it
    if "label" in certificate and scenario.subject is not None and origin != scenario.subject.origin:
        yield f"{path}: label.origin: recorded {origin!r}, {structure.layout.scenarios}: {scenario.subject.origin!r}"


def _edit_findings(
    path: str,
    certificate: JsonObject,
    scenario: Scenario,
    tuned: JsonObject,
    structure: Planned,
) -> Iterator[str]:
    """Say it if a certificate is of another edit than its scenario asks for, or of one that is left out."""
    model, recorded = certificate["meta"]["model_id"], certificate["provenance"]["edit"]
    foreign = _foreign_spec(scenario)
    asked: object
    if foreign is not None and is_tool_spec(str(scenario.edit_spec)):
        same = _is_made_as_asked(recorded, str(scenario.edit_spec), structure.sha256)
        asked, name = scenario.edit_spec, recorded.get("type")
    elif foreign is not None:
        same = _is_asked_for(recorded, foreign, tuned_entry(tuned, model, foreign.type) or {}, structure.sha256)
        asked, name = scenario.edit_spec, foreign.type
    else:
        try:
            edit = requested_edit(scenario, model, tuned)
        except ConfigurationError as error:
            yield f"{structure.layout.state}: {error}"
            return
        if isinstance(edit, Skipped):
            yield f"{path}: {structure.layout.tuned} skips this edit ({edit.reason}), and yet there is a certificate"
            return
        asked = facts = edit.to_json()
        same, name = recorded == {**facts, "sha256": structure.sha256(facts)}, facts["type"]
    if not same or certificate["edit_name"] != name:
        yield f"{path}: provenance.edit: recorded {recorded!r}, the scenario asks for {asked!r}"


def _foreign_spec(scenario: Scenario) -> SpecText | None:
    """Return a scenario's edit spec, taken apart, if it is of an edit that is not known here."""
    if scenario.edit_spec is None:
        return None
    spec = split_edit_spec(scenario.edit_spec)
    if is_tool_spec(scenario.edit_spec):
        return None if foreign_tool(scenario.edit_spec) is None else spec
    return None if spec.type in EDITS else spec


def _is_made_as_asked(recorded: Mapping[str, Any], spec: str, sha256: Callable[[object], str]) -> bool:
    """Tell whether a certificate's edit block can be what a spec asks of a tool that is not known here."""
    facts = {key: value for key, value in recorded.items() if key != "sha256"}
    wanted = foreign_facts(spec, facts.get("type"))
    if wanted is None or recorded["sha256"] != sha256(facts) or not isinstance(facts.get("type"), str):
        return False
    return facts == {"group": facts.get("group"), **wanted}


def _is_asked_for(
    recorded: Mapping[str, Any], spec: SpecText, entry: Mapping[str, Any], sha256: Callable[[object], str]
) -> bool:
    """Tell whether a certificate's edit block can be what a spec asks for, whose parameters have unknown names.

    Args:
        recorded: the block, ``provenance.edit``.
        spec: the scenario's spec.
        entry: what the tuned parameters have for a clean edit, with names.
        sha256: the digest of a value in the pack's format.
    """
    facts = {key: value for key, value in recorded.items() if key != "sha256"}
    parameters = facts.get("parameters")
    if facts.keys() != {"type", "scope", "parameters"} or not isinstance(parameters, Mapping):
        return False
    if facts["type"] != spec.type or recorded["sha256"] != sha256(facts):
        return False
    if spec.clean:
        named = {key: value for key, value in entry.items() if key not in ENTRY_KEYS}
        return entry.get("status") == "selected" and facts["scope"] == entry.get("scope") and parameters == named
    return facts["scope"] == spec.scope and _are_values(list(parameters.values()), list(spec.values))


def _are_values(values: list[Any], texts: list[str]) -> bool:
    """Tell whether these are the values of these texts, in any order: JSON does not keep it."""
    for value in sorted(values, key=lambda own: not isinstance(own, str)):  # a text gives one string, or any number
        text = next((own for own in texts if _reads_as(own, value)), None)
        if text is None:
            return False
        texts.remove(text)
    return not texts


def _reads_as(text: str, value: object) -> bool:
    """Tell whether a text in a spec gives a value: itself, or a number, of which JSON does not keep the type."""
    if isinstance(value, str):
        return text == value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    for kind in (int, float):
        try:
            return kind(text) == value
        except ValueError:
            continue
    return False


def _skipped_findings(document: JsonObject, tuned: JsonObject, structure: Planned) -> Iterator[str]:
    """Name every scenario that the plan leaves out though the tuned file does not: only clean edits can be skipped."""
    specs = {scenario.id: split_edit_spec(scenario.edit_spec or "") for scenario in parse_scenarios(document)}
    for entry in document["plan"]["skipped"]:
        spec = specs.get(entry["scenario"])
        chosen = tuned_entry(tuned, entry["model"], spec.type) if spec is not None and spec.clean else None
        if chosen is None or chosen["status"] != "skipped":
            where = f"{structure.layout.scenarios}: plan.skipped"
            yield f"{where}: {entry['scenario']} of {entry['model']}: the tuned parameters do not skip it"
