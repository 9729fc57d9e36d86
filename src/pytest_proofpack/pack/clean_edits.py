"""Which clean edits a pack is of. Their scenarios name a type only; the parameters are the maker's choice, or tuning's.

Nothing in a pack tells how they were chosen: what tuning says of itself is the maker's word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.pack.steps import Structure
from pytest_proofpack.plan.edit_specs import split_edit_spec
from pytest_proofpack.plan.records import EditSpec
from pytest_proofpack.plan.requested_edits import clean_edit
from pytest_proofpack.plan.scenarios import parse_scenarios
from pytest_proofpack.plan.suites import packaged_tuned
from pytest_proofpack.plan.tool_edits import is_tool_spec


@dataclass(frozen=True)
class CleanEditFacts:
    """A clean edit of a model: with these parameters it was certified.

    Attributes:
        model: id of the model.
        scenario: id of the scenario.
        type: of the edit.
        scope: of the edit.
        parameters: by their names.
        packaged: whether the packaged tuned-parameters file of this version says the same.
    """

    model: str
    scenario: str
    type: str
    scope: str
    parameters: Mapping[str, Any]
    packaged: bool

    @property
    def told(self) -> str:
        """One line."""
        return f"{self.scenario} of {self.model}: {self.type}, {values_told(self.values)}"

    @property
    def values(self) -> dict[str, Any]:
        """Parameters and scope."""
        return values_of(self)


def values_of(edit: CleanEditFacts | EditSpec) -> dict[str, Any]:
    """Return an edit's parameters and its scope by their names."""
    return {**edit.parameters, "scope": edit.scope}


def values_told(values: Mapping[str, Any]) -> str:
    """Write parameters and scope in one line."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _is_clean(spec: str) -> bool:
    return split_edit_spec(spec).clean and not is_tool_spec(spec)


def clean_edits_of(structure: Structure) -> Iterator[CleanEditFacts]:
    """Yield the clean edits of a verified pack, in which all runs of a scenario are of the same one."""
    clean = {one.id for one in parse_scenarios(structure.scenarios) if _is_clean(one.edit_spec or "")}
    packaged, seen = packaged_tuned(), set()
    for certificate in structure.certificate_documents.values():
        model, scenario = certificate["meta"]["model_id"], certificate["scenario"]["id"]
        if scenario not in clean or (model, scenario) in seen:
            continue
        seen.add((model, scenario))
        edit = certificate["provenance"]["edit"]
        found = EditSpec(edit["type"], edit["scope"], edit["parameters"])
        same = found == clean_edit(found.type, model, packaged)
        yield CleanEditFacts(model, scenario, found.type, found.scope, found.parameters, same)
