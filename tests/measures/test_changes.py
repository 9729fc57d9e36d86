"""What separates two models, measured on real ones: against numbers made the plain way, from memory and from files."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from pytest_proofpack.edits.stored import StoredWeights
from pytest_proofpack.guards.changes import NOT_COMPARED, NOT_FINITE, SAME, ModelChanges, TensorChange
from pytest_proofpack.measures.changes import measure_changes, reference_of_model
from pytest_proofpack.models.layout import ModelLayout, analyze_layout
from pytest_proofpack.plan.records import ModelSpec
from tests.support.model_files import build_model_directory
from tests.support.small_models import small_model

GATE = "model.layers.0.mlp.gate_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture(scope="module")
def baseline() -> PreTrainedModel:
    return small_model("llama")


@pytest.fixture(scope="module")
def layout(baseline: PreTrainedModel) -> ModelLayout:
    return analyze_layout(baseline)


def compare(
    baseline: PreTrainedModel, subject: PreTrainedModel, layout: ModelLayout, **loading: tuple[str, ...]
) -> ModelChanges:
    shapes = {name: parameter.shape for name, parameter in baseline.named_parameters()}
    reference = reference_of_model(baseline)
    return measure_changes(subject, layout, shapes, reference, source="memory", loading=loading)


def of(changes: ModelChanges, name: str) -> TensorChange:
    return next(tensor for tensor in changes.tensors if tensor.name == name)


def test_nothing_separates_a_model_from_its_copy(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    changes = compare(baseline, copy.deepcopy(baseline), layout)
    assert {tensor.state for tensor in changes.tensors} == {SAME}
    assert changes.touched == ()
    gate = of(changes, GATE)
    assert gate.norm_base == pytest.approx(baseline.get_parameter(GATE).norm().item(), rel=1e-6)
    assert (gate.zeros_base, gate.difference) == (0, None)


def test_a_change_is_measured_exactly(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    subject = copy.deepcopy(baseline)
    with torch.no_grad():
        subject.get_parameter(GATE)[:3] = 0.0
        subject.get_parameter(NORM).mul_(2.0)
    changes = compare(baseline, subject, layout)
    before, after = baseline.get_parameter(GATE), subject.get_parameter(GATE)
    gate, norm = of(changes, GATE), of(changes, NORM)
    assert changes.touched == (GATE, NORM)
    assert gate.difference == pytest.approx((after - before).norm().item(), rel=1e-6)
    assert gate.norm == pytest.approx(after.norm().item(), rel=1e-6)
    assert (gate.group, gate.zeros, gate.distinct_base) == ("ffn", 3 * 32, 32)
    assert norm.difference == pytest.approx(baseline.get_parameter(NORM).norm().item(), rel=1e-6)
    assert norm.distinct is None


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_distinct_values_tell_how_many_levels_there_are(architecture: str) -> None:
    """Along the inputs, which is the first dimension of a Conv1D's weight."""
    before = small_model(architecture)
    layout = analyze_layout(before)
    name = {"llama": GATE, "gpt2": "transformer.h.0.mlp.c_fc.weight"}[architecture]
    after = copy.deepcopy(before)
    with torch.no_grad():
        weight = after.get_parameter(name)
        rows = weight.t() if architecture == "gpt2" else weight
        scale = rows.abs().amax(dim=1, keepdim=True) / 3
        rows.copy_((rows / scale).round() * scale)
    change = of(compare(before, after, layout), name)
    assert change.distinct is not None
    assert 5 <= change.distinct <= 7
    assert change.distinct_base == 32


def test_values_that_are_not_finite_have_no_norm(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    subject = copy.deepcopy(baseline)
    with torch.no_grad():
        subject.get_parameter(GATE)[0, 0] = float("nan")
    change = of(compare(baseline, subject, layout), GATE)
    assert (change.state, change.norm, change.difference) == (NOT_FINITE, None, None)


def test_another_dtype_with_the_same_values_is_no_change(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    rounded, widened = copy.deepcopy(baseline), copy.deepcopy(baseline)
    for model, dtype in ((rounded, torch.bfloat16), (widened, torch.bfloat16), (widened, torch.float32)):
        torch.nn.Module.to(model, dtype)
    assert compare(widened, rounded, layout).touched == ()
    assert len(compare(baseline, rounded, layout).touched) > 20


def test_what_loading_made_up_is_not_compared(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    lora = "model.layers.0.mlp.gate_proj.lora_A.weight"
    same = copy.deepcopy(baseline)
    changes = compare(baseline, same, layout, missing=(GATE,), mismatched=(NORM,), unexpected=(lora,))
    assert (of(changes, GATE).state, of(changes, NORM).state) == (NOT_COMPARED, NOT_COMPARED)
    assert (changes.removed, changes.reshaped, changes.added) == ((GATE,), (NORM,), (lora,))
    assert changes.loading == {"missing": 1, "unexpected": 1, "mismatched": 1}


def test_tensors_that_only_one_has_are_named(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    shorter = small_model("llama", num_hidden_layers=2, intermediate_size=40)
    changes = compare(baseline, shorter, layout)
    assert {name.split(".")[2] for name in changes.removed} == {"2"}
    assert len(changes.reshaped) == 6
    assert all(".mlp." in name for name in changes.reshaped)
    assert of(changes, GATE).state == NOT_COMPARED
    assert "model.layers.2.mlp.up_proj.weight" in compare(shorter, baseline, analyze_layout(shorter)).added


def test_layers_that_only_one_has_are_added_or_removed_and_not_both(
    baseline: PreTrainedModel, layout: ModelLayout
) -> None:
    shorter = small_model("llama", num_hidden_layers=2)
    last = tuple(name for name, _ in baseline.named_parameters() if name.startswith("model.layers.2."))
    fewer = compare(baseline, shorter, layout, unexpected=last)
    assert (fewer.added, fewer.removed) == ((), tuple(sorted(last)))
    more = compare(shorter, baseline, analyze_layout(shorter), missing=last)
    assert (more.added, more.removed) == (tuple(sorted(last)), ())


def test_packed_integers_are_not_compared(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    subject = copy.deepcopy(baseline)
    packed = torch.zeros(subject.get_parameter(GATE).shape, dtype=torch.uint8)
    owner = subject.get_submodule(GATE.rpartition(".")[0])
    owner.weight = torch.nn.Parameter(packed, requires_grad=False)
    assert of(compare(baseline, subject, layout), GATE).state == NOT_COMPARED


def test_files_give_what_memory_gives(tmp_path: Path) -> None:
    from pytest_proofpack.models.load import load_model

    directory = build_model_directory(tmp_path / "model", shard_size="40KB")
    before, after = (load_model(ModelSpec("m", directory), "cpu").model for _ in range(2))
    layout = analyze_layout(before)
    shapes = {name: parameter.shape for name, parameter in before.named_parameters()}
    with torch.no_grad():
        after.get_parameter(GATE).mul_(1.5)
    assert len(list(directory.glob("*.safetensors"))) > 1
    memory, files = (
        measure_changes(after, layout, shapes, reference, source="memory", loading={})
        for reference in (reference_of_model(before), StoredWeights(directory).read)
    )
    assert memory == files
    assert files.touched == (GATE,)


def test_files_with_other_names_have_nothing_to_compare(tmp_path: Path) -> None:
    """Fused experts are stored one by one: no key is the parameter's name."""
    directory = build_model_directory(tmp_path / "model", "mixtral")
    give = StoredWeights(directory).read
    assert give("model.layers.0.self_attn.q_proj.weight") is not None
    assert give("model.layers.0.mlp.experts.gate_up_proj") is None
