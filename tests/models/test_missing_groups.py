"""A checkpoint without whole groups of matrices is refused from its headers; one lost tensor is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.missing_groups import missing_groups, require_all_groups
from tests.support.edited_checkpoints import EMBEDDED, Tensors, edited_copy

BASE = CheckpointFiles.at(EMBEDDED)


def store_as_quanto(tensors: Tensors) -> None:
    """Store the matrices of the blocks as optimum-quanto's own files have them."""
    for name in [name for name in tensors if "layers" in name and tensors[name].ndim == 2]:
        weight = tensors.pop(name)
        tensors[f"{name}._data"] = weight.to(torch.int8)
        tensors[f"{name}._scale"] = torch.ones(weight.shape[0], 1)


def without(pattern: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        for name in [name for name in tensors if re.search(pattern, name)]:
            del tensors[name]

    return edit


def renamed(pattern: str, replacement: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[re.sub(pattern, replacement, name)] = tensors.pop(name)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (store_as_quanto, r"self_attn\.q_proj\.weight.* Its tensors are those of optimum-quanto, of which its config"),
        (without(r"up_proj"), r"are missing \(model\.layers\.\*\.mlp\.up_proj\.weight\), so random values"),
        (renamed(r"up_proj\.weight", "up_proj.qweight"), r"are those of GPTQ or AWQ"),
        (renamed(r"(mlp\.\w+)\.weight", r"\1.base_layer.weight"), r"are those of peft, not merged"),
    ],
)
def test_refused(tmp_path: Path, edit: Callable[[Tensors], None], message: str) -> None:
    files = CheckpointFiles.at(edited_copy(tmp_path / "subject", edit))
    with pytest.raises(ConfigurationError, match=r"whole groups of matrices that the baseline has .*" + message):
        require_all_groups(files, BASE)


@pytest.mark.parametrize(
    "edit",
    [
        without(r"layers\.2\.mlp\.up_proj"),
        without(r"embed_tokens"),
        without(r"norm"),
        renamed(r"^model\.", ""),
        renamed(r"mlp\.(\w+)\.weight", r"feed_forward.\1_fused"),
    ],
    ids=["one of a kind", "a single one", "vectors", "another beginning", "other names for as much"],
)
def test_left_to_the_invariants(tmp_path: Path, edit: Callable[[Tensors], None]) -> None:
    require_all_groups(CheckpointFiles.at(edited_copy(tmp_path / "subject", edit)), BASE)


def test_another_type_of_model_has_other_groups(tmp_path: Path) -> None:
    subject = edited_copy(tmp_path / "subject", without("up_proj"))
    config = json.loads((subject / "config.json").read_text())
    (subject / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    require_all_groups(CheckpointFiles.at(subject), BASE)


def test_groups_of_a_loaded_model() -> None:
    shapes = {f"h.{layer}.{kind}.weight": (4, 4) for layer in range(3) for kind in "qk"} | {"head.weight": (4, 4)}
    lost = [name for name in shapes if ".q." in name]
    assert missing_groups(shapes, [*lost, "head.weight", "h.0.k.weight"]) == ["h.*.q.weight"]
    assert missing_groups(shapes, lost[:2]) == []
