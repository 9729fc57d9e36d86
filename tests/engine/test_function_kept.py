"""Checkpoints re-expressed without another function pass every gate; damage that hides among such edits does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pytest_proofpack.engine.baseline import Baseline, load_baseline
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.runs.run import Run
from tests.support.edited_checkpoints import Tensors, edited_copy
from tests.support.subject_runs import certificate_of, subject_run

LAYERS = [f"model.layers.{index}." for index in range(5)]
EMBEDDING = "model.embed_tokens.weight"
READERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("kept")
    edited_copy(folder / "custom")
    return subject_run(folder, "custom")


@pytest.fixture(scope="module")
def baseline(run: Run) -> Baseline:
    return load_baseline(run, prepare_model(run, run.suite.models[0]))


def rescale(tensors: Tensors) -> None:
    for layer in LAYERS:
        for scaled, undone in (("self_attn.v_proj", "self_attn.o_proj"), ("mlp.up_proj", "mlp.down_proj")):
            tensors[f"{layer}{scaled}.weight"] *= 4
            tensors[f"{layer}{undone}.weight"] /= 4


def smooth(tensors: Tensors) -> None:
    factors = torch.randn(128, generator=torch.Generator().manual_seed(0)).mul(1.2).exp()
    for layer in LAYERS:
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{norm}.weight"] /= factors
        for reader in READERS:
            tensors[f"{layer}{reader}.weight"] *= factors


def permute_stream(tensors: Tensors) -> None:
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    for name, tensor in tensors.items():
        reads = name == EMBEDDING or any(f".{reader}." in name for reader in READERS)
        tensors[name] = tensor[:, order].contiguous() if reads else tensor[order]


@pytest.mark.parametrize("edit", [rescale, smooth, permute_stream])
def test_an_edit_that_keeps_the_function_passes_without_a_warning(
    run: Run, baseline: Baseline, tmp_path: Path, edit: Callable[[Tensors], None]
) -> None:
    certificate = certificate_of(run, baseline, edited_copy(tmp_path / "custom", edit))
    assert certificate["outcome"] == {"passed": True, "failed_gates": [], "warnings": [], "signals": []}
    assert certificate["answers"]["function_kept"] is True
    if edit is not permute_stream:
        assert certificate["spectral"]["explained"]["count"] > 5


def explode(tensors: Tensors) -> None:
    tensors[f"{LAYERS[2]}mlp.up_proj.weight"] *= 100


def zero_a_row_of_the_table(tensors: Tensors) -> None:
    tensors[EMBEDDING][3] = 0  # a token that the text need not use


def silence_neurons(tensors: Tensors) -> None:
    """Take the weakest neurons of every layer away: the text hardly feels it."""
    for layer in LAYERS:
        names = [f"{layer}mlp.{part}_proj.weight" for part in ("gate", "up")]
        weakest = tensors[f"{layer}mlp.down_proj.weight"].norm(dim=0).argmin()
        for name in names:
            tensors[name][weakest] = 0


@pytest.mark.parametrize("damage", [explode, zero_a_row_of_the_table, silence_neurons])
@pytest.mark.parametrize("edit", [None, rescale])
def test_damage_still_fails_the_spectral_gate(
    run: Run,
    baseline: Baseline,
    tmp_path: Path,
    damage: Callable[[Tensors], None],
    edit: Callable[[Tensors], None] | None,
) -> None:
    def both(tensors: Tensors) -> None:
        if edit is not None:
            edit(tensors)
        damage(tensors)

    certificate = certificate_of(run, baseline, edited_copy(tmp_path / "custom", both))
    assert "spectral_stable" in certificate["outcome"]["failed_gates"]
