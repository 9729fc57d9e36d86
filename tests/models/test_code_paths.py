"""How a model is computed is not its files' to say: equal weights give equal numbers, whatever config.json asks for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from pytest_proofpack.models.code_paths import attention_of, take_the_usual_path
from pytest_proofpack.models.load import load_model
from pytest_proofpack.plan.records import ModelSpec
from tests.support.model_files import build_model_directory
from tests.support.small_models import logits_of, small_model


def loaded(path: Path) -> PreTrainedModel:
    return load_model(ModelSpec("org/model", path), "cpu").model


@pytest.fixture(scope="module", params=["llama", "qwen2_moe"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_directory(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.mark.parametrize(
    "keys",
    [
        {"_attn_implementation": "eager"},
        {"attn_implementation": "eager"},
        {"attn_implementation": {"": "eager"}},
        {"attn_implementation": "flex_attention"},
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": "someone/kernels"},
        {"_experts_implementation": "eager"},
        {"experts_implementation": "batched_mm"},
        {"output_attentions": True},
        {"output_attentions": True, "attn_implementation": "sdpa"},
        {"output_hidden_states": True},
        {"return_dict": False},
        {"use_cache": False},
        {"gradient_checkpointing": True},
        {"torchscript": True},
        {"chunk_size_feed_forward": 7},
    ],
    ids=str,
)
def test_no_key_changes_a_bit(saved: Path, tmp_path: Path, keys: dict[str, object]) -> None:
    other = shutil.copytree(saved, tmp_path / "model")
    config = other / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **keys}))
    model, baseline = loaded(other), loaded(saved)
    assert attention_of(model) == attention_of(baseline) == "sdpa"
    assert torch.equal(logits_of(model), logits_of(baseline))


def test_the_keys_matter_to_transformers() -> None:
    """Else there would be nothing to put aside."""
    eager, usual = small_model("llama", attn_implementation="eager"), small_model("llama")
    assert not torch.equal(logits_of(eager), logits_of(usual))


def test_configurations_within_one_another() -> None:
    config = small_model("llama").config
    config.inner = small_model("gpt2", attn_implementation="eager").config
    take_the_usual_path(config)
    assert config._attn_implementation is None
    assert config.inner._attn_implementation is None


def test_a_class_without_the_usual_attention(tmp_path: Path) -> None:
    path = build_model_directory(tmp_path / "model", "mpt")
    assert attention_of(loaded(path)) == "eager"
