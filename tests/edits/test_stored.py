"""The files of a model as its originals: what has no room in memory is read from them again, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pytest_proofpack.edits import target
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.edits.stored import StoredWeights
from pytest_proofpack.edits.target import Originals
from pytest_proofpack.errors import RestoreError
from pytest_proofpack.models import pieces
from pytest_proofpack.models.layout import analyze_layout
from pytest_proofpack.models.load import LoadedModel, load_model
from pytest_proofpack.plan.edit_kinds import FAULTS
from pytest_proofpack.plan.records import ModelSpec
from tests.support.faults import injected
from tests.support.model_files import build_model_directory
from tests.support.small_models import edit_spec, fingerprint

GATE = "model.layers.0.mlp.gate_proj.weight"


@pytest.fixture(autouse=True)
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "room_for_copies", lambda _device, _left_free: 0.0)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Return the shapes of what was put back from copies in host memory."""
    shapes = []
    put_back = target._put_back

    def counted(parameter: torch.Tensor, values: torch.Tensor) -> None:
        shapes.append(parameter.shape)
        put_back(parameter, values)

    monkeypatch.setattr(target, "_put_back", counted)
    return shapes


def loaded(directory: Path) -> LoadedModel:
    return load_model(ModelSpec("m", directory), "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_edits_and_errors_are_undone_from_files_without_copies(
    architecture: str, dtype: torch.dtype, tmp_path: Path, copies: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 1000)
    directory = build_model_directory(tmp_path / "model", architecture, dtype=dtype, shard_size="40KB")
    model, originals = loaded(directory).model, Originals(stored=StoredWeights(directory))
    layout, before = analyze_layout(model), fingerprint(model)
    for text in ("quant_rtn:4:32:all", "fp8_quant:e5m2:all", "magnitude_prune:0.5:all", "lowrank_svd:2:ffn"):
        with edited(model, layout, edit_spec(text), seed=0, originals=originals):
            assert fingerprint(model) != before
        assert fingerprint(model) == before
    for fault in FAULTS:
        with injected(model, layout, fault, seed=0, originals=originals):
            assert fingerprint(model) != before
        assert fingerprint(model) == before
    assert copies == []


def test_tensors_that_are_fused_while_they_are_loaded_wait_in_memory(tmp_path: Path, copies: list[torch.Size]) -> None:
    directory = build_model_directory(tmp_path / "model", "mixtral")
    model, originals = loaded(directory).model, Originals(stored=StoredWeights(directory))
    before = fingerprint(model)
    with edited(model, analyze_layout(model), edit_spec("quant_rtn:4:32:all"), seed=0, originals=originals) as report:
        fused = [name for name in report.parameters if "experts" in name]
        assert 0 < len(fused) < len(report.parameters)
    assert sorted(copies) == sorted(model.get_parameter(name).shape for name in fused)
    assert fingerprint(model) == before


def test_what_differs_from_its_file_by_a_bit_waits_in_memory(tmp_path: Path, copies: list[torch.Size]) -> None:
    directory = build_model_directory(tmp_path / "model")
    model, originals = loaded(directory).model, Originals(stored=StoredWeights(directory))
    with torch.no_grad():
        model.get_parameter(GATE)[-1, -1].nextafter_(torch.tensor(9.0))
    before = fingerprint(model)
    with edited(model, analyze_layout(model), edit_spec("quant_rtn:4:32:ffn"), seed=0, originals=originals):
        pass
    assert copies == [model.get_parameter(GATE).shape]
    assert fingerprint(model) == before


def test_bits_are_compared_not_numbers(tmp_path: Path) -> None:
    directory = build_model_directory(tmp_path / "model")
    model = loaded(directory).model
    with torch.no_grad():
        model.get_parameter(GATE)[0, :2] = torch.tensor([torch.nan, 0.0])
    model.save_pretrained(tmp_path / "odd")
    odd = model.get_parameter(GATE)
    assert StoredWeights(tmp_path / "odd").holds(GATE, odd)
    with torch.no_grad():
        odd[0, 1] = -0.0
    assert not StoredWeights(tmp_path / "odd").holds(GATE, odd)


def test_other_shapes_dtypes_and_names_are_not_held(tmp_path: Path) -> None:
    directory = build_model_directory(tmp_path / "model")
    gate, stored = loaded(directory).model.get_parameter(GATE), StoredWeights(directory)
    assert not StoredWeights(directory).holds(GATE, gate[:-1])
    assert not StoredWeights(directory).holds(GATE, gate.double())
    assert not stored.holds("model.gate", gate)
    assert stored.read("model.gate") is None


@pytest.mark.parametrize("change", ["touched", "rewritten", "replaced", "gone"])
def test_a_file_that_changes_while_it_is_needed_is_an_error(change: str, tmp_path: Path) -> None:
    directory = build_model_directory(tmp_path / "model")
    model, originals = loaded(directory).model, Originals(stored=StoredWeights(directory))
    layout = analyze_layout(model)
    with (
        pytest.raises(RestoreError, match=r"model\.safetensors: changed on disk.*will be loaded again"),
        edited(model, layout, edit_spec("quant_rtn:4:32:ffn"), seed=0, originals=originals),
    ):
        disturb(directory / "model.safetensors", change)


def disturb(file: Path, change: str) -> None:
    if change == "touched":
        os.utime(file, ns=(0, 0))
    elif change == "rewritten":
        file.write_bytes(file.read_bytes()[:-4] + bytes(4))
    else:
        file.rename(file.with_suffix(".old"))
        if change == "replaced":
            build_model_directory(file.parent, seed=1)


def test_a_file_that_changed_before_is_not_needed(tmp_path: Path, copies: list[torch.Size]) -> None:
    directory = build_model_directory(tmp_path / "model")
    model, originals = loaded(directory).model, Originals(stored=StoredWeights(directory))
    before = fingerprint(model)
    os.utime(directory / "model.safetensors", ns=(0, 0))
    with edited(model, analyze_layout(model), edit_spec("quant_rtn:4:32:ffn"), seed=0, originals=originals):
        pass
    assert copies
    assert fingerprint(model) == before
