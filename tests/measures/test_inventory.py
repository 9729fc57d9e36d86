"""What a baseline is said to hold is what the guards judge of it, whatever its architecture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.guards.coverage import activation_coverage, router_coverage, spectral_coverage
from pytest_proofpack.guards.invariants import compare_structure
from pytest_proofpack.guards.moe import moe_evidence
from pytest_proofpack.guards.rmt import rmt_evidence
from pytest_proofpack.measures.activations import measure_activations
from pytest_proofpack.measures.spectra import measure_spectra
from pytest_proofpack.measures.structure import measure_inventory, measure_structure
from pytest_proofpack.models.layout import analyze_layout
from tests.support.small_models import ARCHITECTURES, LAYERS, VOCABULARY, small_model

POLICY = resolve_policy("balanced")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything_in_a_model_is_judged(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    inventory = measure_inventory(model, layout)
    assert [own.name for own in inventory.tensors] == [name for name, _ in model.named_parameters()]
    assert {own.block for own in inventory.tensors if own.block is not None} == set(range(LAYERS))
    contract = POLICY.section("spectral")["measurement_contract"]
    spectra = measure_spectra(model, layout, contract, baseline=None, changed=None).evidence.to_json()
    windows = torch.randint(VOCABULARY, (8, 64)).numpy()
    facts = measure_activations(model, layout, windows, POLICY.section("rmt")["measurement_contract"]).facts
    coverages = (
        spectral_coverage(spectra, inventory),
        activation_coverage(rmt_evidence(facts, facts), inventory),
        router_coverage(moe_evidence(facts, facts), inventory),
    )
    for coverage in coverages:
        assert coverage is not None
        assert coverage["complete"], coverage
        assert coverage["judged"] == coverage["listed"]


def test_what_the_layout_could_not_tell_is_a_warning_of_the_invariants() -> None:
    model = small_model("llama")
    layout = replace(analyze_layout(model), warnings=("a.b could not be probed and is classed as other: it raises",))
    structure = replace(measure_structure(model, layout, VOCABULARY), inventory=measure_inventory(model, layout))
    (violation,) = compare_structure(structure, structure, POLICY.section("invariants"))
    assert (violation.kind, violation.severity, violation.count) == ("layout", "warning", 1)
    assert violation.names == layout.warnings
