"""A subject may lie on other devices than its baseline: what is measured on both is compared all the same."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.measures.activations import measure_activations
from pytest_proofpack.measures.changes import measure_changes, reference_of_model
from pytest_proofpack.measures.distribution import BaselineDistribution, SubjectDistribution, model_cache_plan
from pytest_proofpack.measures.spectra import measure_spectra
from pytest_proofpack.models.forward import window_losses
from pytest_proofpack.models.layout import analyze_layout
from tests.support.fake_devices import spread, two_devices
from tests.support.small_models import VOCABULARY, small_model

WINDOWS = np.random.default_rng(0).integers(VOCABULARY, size=(8, 128))


@pytest.mark.parametrize("shape", ["llama", "gpt2", "mixtral"])
def test_a_subject_on_other_devices_differs_by_nothing(shape: str) -> None:
    baseline, subject = small_model(shape), small_model(shape)
    policy = resolve_policy("balanced")
    contracts = {name: policy.section(name)["measurement_contract"] for name in ("spectral", "rmt")}
    with two_devices() as (first, second):
        spread(baseline, first, second)
        spread(subject, second, first)
        layout = analyze_layout(baseline)
        before = measure_spectra(baseline, layout, contracts["spectral"], baseline=None, changed=None)
        after = measure_spectra(subject, layout, contracts["spectral"], baseline=before, changed=None)
        assert {change.state for change in after.evidence.matrices} == {"measured"}
        assert {change.change for change in after.evidence.vectors} == {0.0}
        reads = measure_activations(baseline, layout, WINDOWS, contracts["rmt"])
        again = measure_activations(subject, layout, WINDOWS, contracts["rmt"], baseline=reads)
        assert again.facts == reads.facts
        changes = measure_changes(
            subject, layout, before.shapes, reference_of_model(baseline), source="memory", loading={}
        )
        assert changes.touched == ()
        recorder = BaselineDistribution(model_cache_plan(baseline, WINDOWS))
        losses = window_losses(baseline, WINDOWS, batch_size=4, observer=recorder)
        compared = SubjectDistribution(recorder.cache())
        assert (window_losses(subject, WINDOWS, batch_size=4, observer=compared) == losses).all()
        assert max(compared.facts().kl_mean) == pytest.approx(0.0, abs=1e-6)
