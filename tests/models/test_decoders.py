"""Architectures whose structure hides from a simple look: what the layout makes of them, on tiny models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from benchmarks.architectures.configs import build, small_config
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.forward import BatchSize, Split, window_losses
from pytest_proofpack.models.layout import ModelLayout, ParameterGroup, analyze_layout, require_decoder
from pytest_proofpack.models.matrices import matrix_views
from tests.support.small_models import small_model


def _analyzed(name: str, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, ModelLayout]:
    model = build(small_config(name), dtype)
    return model, analyze_layout(model)


def _groups(layout: ModelLayout, part: str) -> set[str]:
    return {str(group) for name, group in layout.groups.items() if part in name and "norm" not in name}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("architecture", "mixer", "feed_forward"),
    [
        ("lfm2", ".conv.", ".feed_forward."),
        ("falcon_h1", ".mamba.", ".feed_forward."),
        ("rwkv", ".attention.", ".ffn."),
    ],
)
def test_what_forgets_fast_mixes_and_what_looks_one_step_back_does_not(
    architecture: str, mixer: str, feed_forward: str, dtype: torch.dtype
) -> None:
    _, layout = _analyzed(architecture, dtype)
    assert _groups(layout, mixer) == {"attn"}
    assert _groups(layout, feed_forward.replace(".ffn.", ".feed_forward.")) == {"ffn"}
    assert layout.warnings == ()


def test_weights_of_convolutions_are_no_experts() -> None:
    _, layout = _analyzed("lfm2")
    assert layout.expert_count == 0
    assert layout.names(ParameterGroup.ROUTER) == ()


def test_experts_stacked_in_rows_are_told_apart() -> None:
    model, layout = _analyzed("dbrx")
    name = "transformer.blocks.0.ffn.experts.mlp.w1"
    views = matrix_views(model, layout, [name])
    assert layout.weights[name] == layout.expert_count == len(views) == 6
    assert {view.shape for view in views} == {(96, 64)}


def test_attention_may_have_experts_and_a_router_too() -> None:
    _, layout = _analyzed("jetmoe")
    assert layout.groups["model.layers.0.self_attention.experts.router.layer.weight"] is ParameterGroup.ROUTER
    assert layout.groups["model.layers.0.self_attention.experts.input_linear.weight"] is ParameterGroup.ATTN
    assert layout.weights["model.layers.0.self_attention.experts.input_linear.weight"] == layout.expert_count


def test_a_router_that_is_read_and_not_called_is_watched_from_around_it() -> None:
    _, layout = _analyzed("longcat_flash")
    watched = {owner.rpartition(".")[2]: router.watched.rpartition(".")[2] for owner, router in layout.routers.items()}
    assert watched == {"classifier": "router"}


def test_a_router_may_be_a_small_network() -> None:
    _, layout = _analyzed("zaya")
    assert _groups(layout, "layers.1.mlp.gate.") == {"router"}
    assert {router.watched for router in layout.routers.values()} == {f"model.layers.{n}.mlp.gate" for n in range(4)}


@pytest.mark.parametrize("architecture", ["deepseek_v3", "jamba", "kimi_linear"])
def test_a_matrix_of_the_same_size_is_no_fused_one(architecture: str) -> None:
    _, layout = _analyzed(architecture)
    assert layout.qkv == {}


def test_blocks_in_blocks_are_opened() -> None:
    _, layout = _analyzed("zamba2")
    shared = "model.layers.1.shared_transformer"
    assert _groups(layout, ".feed_forward.") == {"ffn"}
    assert _groups(layout, ".self_attn.") == _groups(layout, ".mamba.") == {"attn"}
    assert {f"{shared}.feed_forward", f"{shared}.self_attn"} <= {sublayer.name for sublayer in layout.sublayers}


def test_attention_that_takes_keys_from_an_earlier_layer_is_attention() -> None:
    _, layout = _analyzed("gemma3n_text")
    assert _groups(layout, "layers.3.self_attn.") == {"attn"}


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("mamba", ["backbone.layers.0.mixer.A_log", "backbone.layers.0.mixer.conv1d.weight"]),
        ("ernie4_5_moe", ["model.layers.1.mlp.gate.moe_statics.e_score_correction_bias"]),
        ("qwen2_moe", ["model.layers.1.mlp.shared_expert_gate.weight"]),
    ],
)
def test_decays_convolutions_biases_and_gates_of_one_row_are_no_weights(architecture: str, names: list[str]) -> None:
    model, layout = _analyzed(architecture)
    assert not layout.weights.keys() & set(names)
    assert matrix_views(model, layout, names) == []


def test_what_a_pass_over_text_leaves_out_is_said() -> None:
    _, layout = _analyzed("bart")
    (warning,) = layout.warnings
    assert "A pass over text uses" in warning
    assert "model.decoder.layers.0.encoder_attn" in warning
    assert _groups(layout, ".encoder_attn.") == {"other"}


def test_a_model_without_feed_forward_layers_says_what_ffn_stands_for() -> None:
    _, layout = _analyzed("mamba2")
    assert layout.warnings == ("No block has a feed-forward layer, so the scope ffn stands for all.",)


@pytest.mark.parametrize(
    ("architecture", "why"), [("xlnet", "is no decoder"), ("hrm_text", "50 % of its weights outside")]
)
def test_what_is_no_stack_of_decoder_blocks_is_refused(architecture: str, why: str) -> None:
    _, layout = _analyzed(architecture)
    with pytest.raises(ConfigurationError, match=rf"^org/model cannot be certified: it [^.]*{why}"):
        require_decoder("org/model", layout)


def test_a_model_that_sees_ahead_is_refused() -> None:
    class SeesAhead(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            result: torch.Tensor = self.inner(hidden, **kwargs)
            return result + hidden.mean(dim=1, keepdim=True)

    model = small_model("llama")
    assert analyze_layout(model).refusal == ""
    block = model.get_submodule("model.layers.1")
    block.mlp = SeesAhead(block.get_submodule("mlp"))
    assert "depends on later tokens" in analyze_layout(model).refusal


def test_logits_of_a_residual_stream_that_is_more_precise_than_the_head() -> None:
    model = build(small_config("mamba"), torch.bfloat16)
    size = BatchSize(2)
    found = window_losses(model, np.arange(40).reshape(2, 20), batch_size=size)
    assert np.isfinite(found).all()
    assert size.splits[model] is Split.STEPS
