"""Families are told from structure: a table of architectures, and models that fit no pattern."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from pytest_proofpack.models.layout import ParameterGroup, analyze_layout
from tests.support.small_models import ARCHITECTURES, EXPERTS, HIDDEN, LAYERS, fingerprint, small_model

_LLAMA_LIKE = {
    "model.embed_tokens.weight": "embed",
    "model.layers.*.self_attn.?_proj.weight": "attn",
    "model.layers.*.self_attn.?_proj.bias": "attn",
    "model.layers.*.self_attn.?_norm.weight": "norm",
    "model.layers.*.mlp.*": "ffn",
    "model.layers.*.*_layernorm.weight": "norm",
    "model.norm.weight": "norm",
    "lm_head.weight": "head",
}
_MOE_LIKE = {"model.layers.*.mlp.gate.weight": "router", **_LLAMA_LIKE}

EXPECTED: Mapping[str, Mapping[str, str]] = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gemma": _LLAMA_LIKE,
    "mixtral": _MOE_LIKE,
    "qwen2_moe": _MOE_LIKE,
    "gpt_oss": {
        "model.layers.*.mlp.router.*": "router",
        "model.layers.*.self_attn.sinks": "attn",
        **_LLAMA_LIKE,
    },
    "phi3": {"model.layers.*.self_attn.qkv_proj.weight": "attn", **_LLAMA_LIKE},
    "gpt2": {
        "transformer.wte.weight": "embed",
        "transformer.wpe.weight": "embed",
        "transformer.h.*.attn.*": "attn",
        "transformer.h.*.mlp.*": "ffn",
        "transformer.h.*.ln_?.*": "norm",
        "transformer.ln_f.*": "norm",
    },
    "gpt_neox": {
        "gpt_neox.embed_in.weight": "embed",
        "gpt_neox.layers.*.attention.*": "attn",
        "gpt_neox.layers.*.mlp.*": "ffn",
        "gpt_neox.layers.*layernorm.*": "norm",
        "gpt_neox.final_layer_norm.*": "norm",
        "lm_head.weight": "head",
    },
    "mpt": {
        "transformer.wte.weight": "embed",
        "transformer.blocks.*.attn.*": "attn",
        "transformer.blocks.*.ffn.*": "ffn",
        "transformer.*norm_*.weight": "norm",
    },
    "opt": {
        "model.decoder.embed_*.weight": "embed",
        "model.decoder.layers.*.self_attn.*": "attn",
        "model.decoder.layers.*.fc?.*": "ffn",
        "model.decoder.*layer_norm.*": "norm",
    },
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_has_the_expected_group(architecture: str) -> None:
    layout = analyze_layout(small_model(architecture))
    assert layout.warnings == ()
    for name, group in layout.groups.items():
        expected = next(want for pattern, want in EXPECTED[architecture].items() if fnmatch.fnmatch(name, pattern))
        assert group == expected, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["gpt2", "mixtral", "qwen3", "gpt_neox"])
def test_half_precision_changes_nothing(architecture: str, dtype: torch.dtype) -> None:
    assert analyze_layout(small_model(architecture, dtype=dtype)) == analyze_layout(small_model(architecture))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_block_has_one_sublayer_of_each_kind(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    kinds = [(sublayer.block, sublayer.group) for sublayer in layout.sublayers]
    assert sorted(kinds) == sorted(
        (block, group) for block in range(LAYERS) for group in (ParameterGroup.ATTN, ParameterGroup.FFN)
    )
    widths: dict[str, int] = {}

    def note(name: str, output: object) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        assert isinstance(tensor, torch.Tensor)
        widths[name] = tensor.shape[-1]

    for sublayer in layout.sublayers:
        model.get_submodule(sublayer.name).register_forward_hook(
            lambda _module, _args, output, name=sublayer.name: note(name, output)
        )
    model(input_ids=torch.arange(5).unsqueeze(0))
    assert widths == {sublayer.name: HIDDEN for sublayer in layout.sublayers}


def test_blocks_are_numbered() -> None:
    layout = analyze_layout(small_model("gpt2"))
    assert (layout.blocks, layout.block_count) == ("transformer.h", LAYERS)
    assert layout.block_of["transformer.h.2.mlp.c_fc.weight"] == 2
    assert layout.block_of["transformer.wte.weight"] is None


@pytest.mark.parametrize(("architecture", "tied"), [("gpt2", True), ("qwen2", True), ("llama", False)])
def test_a_tied_head_is_the_embeddings_parameter(architecture: str, tied: bool) -> None:
    layout = analyze_layout(small_model(architecture))
    assert layout.head_name == "lm_head.weight"
    assert layout.head_tied is tied
    assert (layout.head_name in layout.groups) is not tied


@pytest.mark.parametrize(("architecture", "count"), [("mixtral", EXPERTS), ("qwen2_moe", EXPERTS), ("llama", 0)])
def test_experts_are_counted(architecture: str, count: int) -> None:
    assert analyze_layout(small_model(architecture)).expert_count == count


@pytest.mark.parametrize(
    ("architecture", "packing"),
    [("gpt2", (4, 4, 8, False)), ("phi3", (4, 2, 8, False)), ("gpt_neox", (4, 4, 8, True)), ("llama", None)],
)
def test_fused_qkv_is_told_by_behaviour(architecture: str, packing: tuple[int, int, int, bool] | None) -> None:
    found = {
        (entry.heads, entry.kv_heads, entry.head_dim, entry.interleaved)
        for entry in analyze_layout(small_model(architecture)).qkv.values()
    }
    assert found == ({packing} if packing else set())


class _MisnamedBlock(nn.Module):
    """A Llama block whose attention is called mlp, and whose feed-forward layer is called attn."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.mlp = block.get_submodule("self_attn")
        self.attn = block.get_submodule("mlp")
        self.head = block.get_submodule("input_layernorm")

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        hidden_states = hidden_states + self.mlp(self.head(hidden_states), **kwargs)[0]
        result: torch.Tensor = hidden_states + self.attn(hidden_states)
        return result


def test_names_play_no_part() -> None:
    model = small_model("llama")
    blocks = model.get_submodule("model.layers")
    assert isinstance(blocks, nn.ModuleList)
    for index, block in enumerate(blocks):
        blocks[index] = _MisnamedBlock(block)
    groups = analyze_layout(model).groups
    assert groups["model.layers.1.mlp.q_proj.weight"] is ParameterGroup.ATTN
    assert groups["model.layers.1.attn.gate_proj.weight"] is ParameterGroup.FFN
    assert groups["model.layers.1.head.weight"] is ParameterGroup.NORM


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral", "gpt_neox"])
def test_the_probe_leaves_no_trace(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    model.train()
    model.get_submodule(layout.blocks).get_submodule("1").eval()
    before, state = fingerprint(model), torch.get_rng_state()
    assert analyze_layout(model) == layout
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_that_draws_random_numbers_does_not_disturb_the_callers() -> None:
    model = small_model("llama")
    drawn = []
    model.register_forward_pre_hook(lambda _module, _args: drawn.append(torch.rand(1)))
    state = torch.get_rng_state()
    analyze_layout(model)
    assert drawn
    assert torch.equal(torch.get_rng_state(), state)


def test_a_scale_that_is_no_norm_is_not_called_one() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.full((HIDDEN,), 0.5))

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden * self.gain

    model = small_model("llama")
    decoder = model.get_submodule("model")
    decoder.norm = Scale()
    assert analyze_layout(model).groups["model.norm.gain"] is ParameterGroup.OTHER


def test_a_model_that_cannot_be_run_is_classed_with_a_warning() -> None:
    model = small_model("llama")
    del model.get_submodule("model.layers.1").self_attn
    layout = analyze_layout(model)
    assert any("could not be run" in warning for warning in layout.warnings)
    assert layout.groups["model.embed_tokens.weight"] is ParameterGroup.EMBED
    assert layout.groups["model.layers.0.mlp.up_proj.weight"] is ParameterGroup.OTHER


def test_a_model_without_a_fitting_list_of_blocks_falls_back_to_the_longest() -> None:
    model = small_model("llama")
    model.config.num_hidden_layers = LAYERS - 1
    layout = analyze_layout(model)
    assert any("num_hidden_layers" in warning for warning in layout.warnings)
    assert (layout.blocks, layout.block_count) == ("model.layers", LAYERS)
    assert layout.groups["model.layers.0.mlp.up_proj.weight"] is ParameterGroup.FFN
