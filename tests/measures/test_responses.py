"""What sublayers answer: left alone by edits that change no function, moved by those that do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.good_edits import GOOD, good_for
from benchmarks.model_parts import parts_of
from pytest_proofpack.guards.activations import activation_contract
from pytest_proofpack.measures.activations import measure_activations
from pytest_proofpack.measures.responses import compared_responses
from pytest_proofpack.models.layout import analyze_layout
from tests.support.small_models import small_model

WINDOWS = np.random.default_rng(0).integers(0, 128, (8, 32))
UNCHANGED = ("rescaled", "neurons_permuted", "heads_permuted", "stream_permuted", "rotated", "smoothed")


def answers(baseline: PreTrainedModel, subject: PreTrainedModel) -> dict[str, float | None]:
    layout = analyze_layout(baseline)
    before, after = (
        measure_activations(model, layout, WINDOWS, activation_contract()).sketches for model in (baseline, subject)
    )
    return compared_responses(before, after, layout)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("edit", UNCHANGED)
def test_a_function_that_stays_answers_as_before(architecture: str, edit: str) -> None:
    baseline = small_model(architecture)
    subject = copy.deepcopy(baseline)
    if edit not in good_for(parts_of(subject)):
        pytest.skip("not for this architecture")
    with torch.no_grad():
        GOOD[edit](parts_of(subject), torch.tensor(WINDOWS))
    found = answers(baseline, subject)
    assert found
    assert all(value == pytest.approx(1.0, abs=1e-4) for value in found.values())


def test_another_matrix_answers_otherwise() -> None:
    baseline = small_model("llama")
    subject = copy.deepcopy(baseline)
    with torch.no_grad():
        subject.get_parameter("model.layers.1.self_attn.o_proj.weight").mul_(-1)
    found = answers(baseline, subject)
    assert found["model.layers.0.mlp"] == 1.0
    assert found["model.layers.1.self_attn"] == pytest.approx(-1.0)


def test_what_is_not_finite_has_no_answer() -> None:
    baseline = small_model("llama")
    subject = copy.deepcopy(baseline)
    with torch.no_grad():
        subject.get_parameter("model.layers.1.self_attn.o_proj.weight")[0, 0] = torch.nan
    found = answers(baseline, subject)
    assert found["model.layers.0.mlp"] == 1.0
    assert found["model.layers.1.self_attn"] is None


def test_a_sublayer_that_said_nothing_before_says_so_again() -> None:
    baseline = small_model("llama")
    with torch.no_grad():
        baseline.get_parameter("model.layers.1.self_attn.o_proj.weight").zero_()
    subject = copy.deepcopy(baseline)
    assert answers(baseline, subject)["model.layers.1.self_attn"] == 1.0
    with torch.no_grad():
        subject.get_parameter("model.layers.1.self_attn.o_proj.weight").fill_(0.1).triu_()
    assert answers(baseline, subject)["model.layers.1.self_attn"] == 0.0
