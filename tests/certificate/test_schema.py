"""The schema of a certificate is put together from the records of criteria and guards, and so is all else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pytest_proofpack.certificate import policy as policies
from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.certificate.policy import looser_than_tier, resolve_policy
from pytest_proofpack.certificate.schema import certificate_findings, certificate_schema
from pytest_proofpack.guards import registry
from pytest_proofpack.guards.registry import GUARDS
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.report.gates import gate_rows
from tests.support.certificates import make_evidence, make_plan
from tests.support.foreign_guard import LARGEST_WEIGHT, MILD, TOO_LARGE

REQUEST: CertificateRequest = next(
    request for request in make_plan()[1].requests if request.scenario.id == "quant_4bit_clean"
)


def test_it_is_a_schema_and_requires_every_guard_flag_and_section() -> None:
    schema = certificate_schema()
    Draft202012Validator.check_schema(schema)
    assert set(GUARDS.builtin) <= set(schema["required"])
    flags = schema["properties"]["validation"]["required"]
    assert {gate.flag for judge in criteria() for gate in judge.gates} <= set(flags)
    assert "variance" in schema["properties"]["resolved_policy"]["required"]
    assert schema["properties"]["invariants"]["required"][1:] == [
        "status", "baseline", "subject", "violations", "tensors", "sublayers",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["status", "violations"])
def test_the_block_of_a_guard_fits_the_guards_own_schema(key: str) -> None:
    certificate = build_certificate(make_evidence(REQUEST))
    del certificate["invariants"][key]
    assert certificate_findings(certificate) == [f"invariants: {key!r} is a required property"]


OWN = replace(
    LARGEST_WEIGHT,
    measure=None,
    section="largest_weight",
    schema={"type": "object", "required": ["baseline", "subject", "ratio"]},
    followed=("ratio",),
)
"""The guard of the tests as the package itself would have it."""


@pytest.fixture
def own_guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the package have one guard more: its record, its place in the list, and its thresholds in tiers.json."""
    table: dict[str, Any] = policies._tier_table()
    tiers = {name: {**sections, "largest_weight": {"ratio_max": 2.0}} for name, sections in table["tiers"].items()}
    monkeypatch.setattr(policies, "_tier_table", lambda: {**table, "tiers": tiers})
    monkeypatch.setattr(registry, "BUILTIN", (*registry.BUILTIN, OWN))
    monkeypatch.setattr(GUARDS, "_own", None)
    yield
    monkeypatch.undo()
    GUARDS._own = None


@pytest.mark.usefixtures("own_guard")
def test_a_guard_more_is_a_record_more() -> None:
    """Judge, policy, schema, outcome and report take it from there; none of them is touched."""
    base = make_evidence(REQUEST)
    certificate = build_certificate(replace(base, guards={**base.guards, "largest_weight": TOO_LARGE}))
    assert check_certificate(certificate) == []
    assert certificate["outcome"]["failed_gates"] == ["largest_weight_ok"]
    assert certificate["outcome"]["signals"] == []  # no signal of the package's own
    assert certificate["plugins"]["guards"][-1] == "largest_weight"
    assert [row.measured for row in gate_rows(certificate) if row.flag == "largest_weight_ok"] == ["ratio 2.5"]
    certificate["largest_weight"]["bonus"] = 1
    assert check_certificate(finish_certificate(certificate)) == [
        "largest_weight.bonus: nothing in the evidence supports it"
    ]
    del certificate["largest_weight"]
    assert certificate_findings(certificate) == ["top level: 'largest_weight' is a required property"]
    loose = resolve_policy("balanced").thresholds
    loose["largest_weight"]["ratio_max"] = 2.5
    assert looser_than_tier("balanced", loose) == ["largest_weight.ratio_max is 2.5, the balanced tier has 2.0"]
    loose["largest_weight"]["ratio_max"] = 1.5
    assert looser_than_tier("balanced", loose) == []
    assert MILD != TOO_LARGE
