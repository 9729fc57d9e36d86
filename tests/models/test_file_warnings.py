"""What a user should know about files of which nothing was loaded, or that say two things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_proofpack.models.file_warnings import class_warnings, file_warnings
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.plan.records import ModelSpec


def files(path: Path, **config: Any) -> CheckpointFiles:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    save_file({"weight": torch.ones(2)}, path / "model.safetensors")
    return CheckpointFiles.at(path)


def warnings(path: Path, **config: Any) -> tuple[str, ...]:
    return file_warnings(ModelSpec("m", path), files(path, **config))


def test_safetensors_that_were_not_loaded(tmp_path: Path) -> None:
    save_file({"lora_A": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    (warning,) = warnings(tmp_path)
    assert "holds safetensors beside the weights, which were not loaded: adapter_model.safetensors. " in warning


def test_links_to_folders(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    model = tmp_path / "model"
    model.mkdir()
    (model / "additional_chat_templates").symlink_to(tmp_path / "outside")
    (warning,) = warnings(model)
    assert warning.startswith("holds links to folders (additional_chat_templates); what is in them is not part of")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_theta 500000"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"rope_theta": 2e4}}, "rope_parameters {"),
        ({"text_config": {"rope_theta": 1, "rope_parameters": {"full": {"rope_theta": 2}}}}, "rope_theta 1"),
        ({"torch_dtype": "float16", "dtype": "float32"}, 'torch_dtype "float16"'),
    ],
)
def test_a_configuration_that_contradicts_itself(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    (warning,) = warnings(tmp_path, **config)
    assert warning.startswith(f"its config.json contradicts itself: it also says {said}")


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 10000, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8}},
        {"rope_scaling": {"type": "yarn", "factor": 4}, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_theta": 1e6, "rope_parameters": {"full": {"rope_theta": 1e6}, "sliding": {"rope_theta": 1e4}}},
        {"rope_scaling": None, "rope_parameters": None, "torch_dtype": "torch.float16", "dtype": "float16"},
    ],
)
def test_the_same_said_twice_is_none(tmp_path: Path, config: dict[str, Any]) -> None:
    assert warnings(tmp_path, **config) == ()


def test_another_kind_of_model(tmp_path: Path) -> None:
    usual = {"architectures": ["LlamaForCausalLM"]}
    base = files(tmp_path / "base", **usual)
    assert class_warnings(files(tmp_path / "same", is_encoder_decoder=False, **usual), base) == ()
    other = files(tmp_path / "other", architectures=["LlamaForSequenceClassification"], is_encoder_decoder=True)
    (warning,) = class_warnings(other, base)
    assert "architectures LlamaForSequenceClassification, the baseline's LlamaForCausalLM; is_encoder_decoder true" in (
        warning
    )
    assert "architectures none, the baseline's" in class_warnings(files(tmp_path / "silent"), base)[0]
