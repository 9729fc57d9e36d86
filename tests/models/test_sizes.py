"""Sizes of config.json that the weight files could not possibly hold are refused before a module is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import check_checkpoint
from pytest_proofpack.plan.records import ModelSpec


def check(path: Path, **config: Any) -> None:
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    save_file({f"layers.{number}.weight": torch.ones(4, 8) for number in range(3)}, path / "model.safetensors")
    check_checkpoint(ModelSpec("m", path))


@pytest.mark.parametrize(
    ("key", "held"),
    [
        ("num_hidden_layers", "3 tensors"),
        ("n_layer", "3 tensors"),
        ("vocab_size", "tensors of at most 8 rows or columns"),
        ("intermediate_size", "tensors of at most 8 rows or columns"),
        ("head_dim", "tensors of at most 8 rows or columns"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_cannot_be_there_is_refused_with_both_numbers(tmp_path: Path, key: str, held: str, nested: bool) -> None:
    config: dict[str, Any] = {key: 10**9}
    with pytest.raises(
        ConfigurationError, match=f"config.json says {key} 1000000000, but its weight files hold {held}"
    ):
        check(tmp_path, **({"text_config": config} if nested else config))


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 3, "vocab_size": 8},
        {"vocab_size": 16, "n_positions": 2048, "max_position_embeddings": 10**6},
        {},
    ],
)
def test_what_may_be_there_is_left_to_the_invariants(tmp_path: Path, config: dict[str, Any]) -> None:
    check(tmp_path, **config)
