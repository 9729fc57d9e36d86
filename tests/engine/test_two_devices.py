"""A model that lies on two devices is certified as on one: every scenario of the embedded suite, three shapes.

The devices are fakes that compute on the CPU and refuse operations on both. What a real second GPU adds is in
test_accelerator.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from pytest_proofpack.engine import baseline as baseline_module
from pytest_proofpack.engine.baseline import load_baseline
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.models.load import LoadedModel, load_model
from pytest_proofpack.plan.records import ModelSpec
from tests.support.fake_devices import spread, two_devices
from tests.support.small_runs import SHAPES, certificates, outcomes, small_run


@pytest.mark.parametrize("shape", SHAPES)
def test_every_scenario_ends_as_on_one_device(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run(shape, tmp_path)
    alone = certificates(run, load_baseline(run, prepare_model(run, run.suite.models[0])))
    with two_devices() as devices:

        def loaded(spec: ModelSpec, device: str, *, max_memory: Mapping[int, int]) -> LoadedModel:
            loaded = load_model(spec, device, max_memory=max_memory)
            spread(loaded.model, *devices)
            return loaded

        monkeypatch.setattr(baseline_module, "load_model", loaded)
        baseline = load_baseline(run, prepare_model(run, run.suite.models[0]))
        assert {own.device for own in baseline.model.parameters()} == set(devices)
        before = {name: own.cpu() for name, own in baseline.model.named_parameters()}
        spread_out = certificates(run, baseline)
        for name, own in baseline.model.named_parameters():
            assert torch.equal(own.cpu(), before[name]), name
    assert len(alone) > 15
    assert outcomes(spread_out) == outcomes(alone)
    for scenario, certificate in spread_out.items():
        expected = alone[scenario]
        assert certificate["structure"]["parameters_changed"] == expected["structure"]["parameters_changed"], scenario
        if "ratio_vs_baseline" in expected["primary_metric"]:  # finite on both sides
            ours, others = (one["primary_metric"]["ratio_vs_baseline"] for one in (certificate, expected))
            assert ours == pytest.approx(others, rel=1e-4), scenario
