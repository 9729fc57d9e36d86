"""A checkpoint that was only saved anew holds the same values: other bytes, other shards, another dtype."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models import same_values
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.same_values import hold_same_values

Tensors = dict[str, Tensor]
ORIGINAL: Tensors = {
    "embed": torch.arange(32.0).reshape(8, 4),
    "up": torch.linspace(-1, 1, 24).reshape(6, 4).bfloat16().float(),
    "norm": torch.ones(4),
}


def checkpoint(
    folder: Path, tensors: Tensors, *, shards: int = 1, config: dict[str, object] | None = None
) -> CheckpointFiles:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **(config or {})}))
    tensors = {name: own.clone().contiguous() for name, own in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "made": folder.name})
        return CheckpointFiles.at(folder)
    where = {name: f"model-{index % shards}.safetensors" for index, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return CheckpointFiles.at(folder)


def same(folder: Path, tensors: Tensors, **options: object) -> bool:
    ours = checkpoint(folder / "ours", ORIGINAL)
    return hold_same_values(ours, checkpoint(folder / "theirs", tensors, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tensors", "options"),
    [
        (ORIGINAL, {}),
        (ORIGINAL, {"shards": 2}),
        (ORIGINAL, {"config": {"dtype": "bfloat16"}}),
        ({name: own.bfloat16() for name, own in ORIGINAL.items()}, {}),
        ({**ORIGINAL, "head": ORIGINAL["embed"]}, {}),
        ({**ORIGINAL, "norm": torch.tensor([1.0, 1.0, 1.0, 1.0]).double()}, {}),
    ],
    ids=["metadata", "shards", "config", "dtype", "tied head", "wider"],
)
def test_saved_anew(tmp_path: Path, tensors: Tensors, options: dict[str, object]) -> None:
    assert same(tmp_path, tensors, **options)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors["up"].__setitem__((0, 0), -1.0078125),
        lambda tensors: tensors.update(up=tensors["up"].t()),
        lambda tensors: tensors.update(more=torch.zeros(6, 4)),
        lambda tensors: tensors.pop("norm"),
        lambda tensors: tensors.update(up=tensors["up"] + 0.001),
        lambda tensors: tensors.update(up=tensors["up"] * float("nan")),
    ],
)
def test_something_else(tmp_path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = {name: own.clone() for name, own in ORIGINAL.items()}
    change(tensors)
    assert not same(tmp_path, tensors)


def test_quantized_files_hold_codes_and_not_values(tmp_path: Path) -> None:
    assert not same(tmp_path, ORIGINAL, config={"quantization_config": {"quant_method": "fp8"}})


@pytest.mark.parametrize("place", [0, 4, 5, 31])
def test_tensors_are_compared_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.setattr(same_values, "_PIECE", 5)
    halves = {name: own.bfloat16() for name, own in ORIGINAL.items()}
    ours = checkpoint(tmp_path / "ours", ORIGINAL)
    assert hold_same_values(ours, checkpoint(tmp_path / "saved anew", halves))
    halves["embed"].view(-1)[place] += 1
    assert not hold_same_values(ours, checkpoint(tmp_path / "changed", halves))


def test_a_file_that_is_cut_short_meanwhile_is_named(tmp_path: Path) -> None:
    ours, theirs = (checkpoint(tmp_path / name, ORIGINAL) for name in ("ours", "theirs"))
    assert ours.headers
    assert theirs.headers
    with (tmp_path / "theirs" / "model.safetensors").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(ConfigurationError, match=r"theirs/model.safetensors: changed on disk while it was compared"):
        hold_same_values(ours, theirs)
