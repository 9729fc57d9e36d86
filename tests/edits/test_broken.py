"""A fault after which a model does not compute any more: it answers with NaN, says why, and is put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.architectures.configs import build, small_config
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.models.forward import window_losses
from pytest_proofpack.models.layout import analyze_layout
from pytest_proofpack.plan.records import FaultSpec
from tests.support.small_models import edit_spec, fingerprint, small_model

WINDOWS = np.arange(48).reshape(3, 16) % 40


def test_a_model_whose_other_parts_count_the_blocks_is_said_not_to_compute() -> None:
    model = build(small_config("gemma3n_text"))
    layout, before = analyze_layout(model), fingerprint(model)
    losses = window_losses(model, WINDOWS, batch_size=2)
    with edited(model, layout, FaultSpec("missing_tensors"), seed=0) as report:
        assert "RuntimeError: shape" in report.details["does_not_compute"]
        assert np.isnan(window_losses(model, WINDOWS, batch_size=2)).all()
        assert bool(torch.isnan(model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits).all())
    assert fingerprint(model) == before
    assert "forward" not in vars(model)
    np.testing.assert_array_equal(window_losses(model, WINDOWS, batch_size=2), losses)


def test_a_model_that_bears_it_computes_on() -> None:
    model = small_model("llama")
    with edited(model, analyze_layout(model), FaultSpec("missing_tensors"), seed=0) as report:
        assert "does_not_compute" not in report.details
        assert np.isfinite(window_losses(model, WINDOWS, batch_size=2)).all()


@pytest.mark.parametrize("scope", ["ffn", "ffn@layers=2"])
def test_without_feed_forward_layers_their_scope_stands_for_all(scope: str) -> None:
    model = build(small_config("mamba2"))
    layout = analyze_layout(model)
    blocks = range(4 if scope == "ffn" else 2)
    with edited(model, layout, edit_spec(f"quant_rtn:4:32:{scope}"), seed=0) as report:
        assert report.details["scope_taken"] == "all"
        assert set(report.parameters) == {
            f"backbone.layers.{block}.mixer.{part}.weight" for block in blocks for part in ("in_proj", "out_proj")
        }


def test_a_scope_that_names_something_is_taken_at_its_word() -> None:
    model = small_model("llama")
    with edited(model, analyze_layout(model), edit_spec("quant_rtn:4:32:ffn"), seed=0) as report:
        assert report.details.keys() == {"matrices", "groups"}
