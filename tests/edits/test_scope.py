"""Scopes select the right matrices, in the right orientation, on the storage of the parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_proofpack.edits.scope import select_matrices
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.layout import analyze_layout
from pytest_proofpack.models.matrices import MatrixView, every_matrix
from tests.support.small_models import ARCHITECTURES, EXPERTS, HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY, small_model


def _views(architecture: str, scope: str) -> dict[str, MatrixView]:
    model = small_model(architecture)
    return {view.label: view for view in select_matrices(model, analyze_layout(model), scope)}


@pytest.mark.parametrize(
    ("architecture", "scope", "per_layer"),
    [
        ("llama", "ffn", 3),
        ("llama", "attn", 4),
        ("llama", "all", 7),
        ("qwen2", "all", 7),
        ("qwen3", "all", 7),
        ("gemma", "all", 7),
        ("gpt2", "ffn", 2),
        ("gpt2", "attn", 4),
        ("gpt_neox", "attn", 4),
        ("phi3", "ffn", 3),
        ("phi3", "attn", 4),
        ("opt", "all", 6),
        ("mixtral", "ffn", 3 * EXPERTS),
        ("mixtral", "attn", 4),
        ("gpt_oss", "ffn", 3 * EXPERTS),
    ],
)
def test_a_scope_selects_its_matrices_and_nothing_else(architecture: str, scope: str, per_layer: int) -> None:
    assert len(_views(architecture, scope)) == per_layer * LAYERS


def test_layer_limits() -> None:
    assert {view.split(".")[2] for view in _views("llama", "ffn@layer=1")} == {"1"}
    assert {view.split(".")[2] for view in _views("llama", "ffn@layers=2")} == {"0", "1"}


@pytest.mark.parametrize(
    ("scope", "mentions"),
    [("ffn@layer=3", "@layer=0 to @layer=2"), ("all@layers=4", "@layers=1 to @layers=3"), ("mlp", "ffn|attn|all")],
)
def test_scopes_that_do_not_fit_are_refused(scope: str, mentions: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _views("llama", scope)
    assert mentions in str(caught.value)


def test_a_scope_that_selects_nothing_says_why() -> None:
    model = small_model("llama")
    del model.get_submodule("model.layers.1").self_attn
    with pytest.raises(ConfigurationError, match="could not be run"):
        select_matrices(model, analyze_layout(model), "attn")


@pytest.mark.parametrize(
    ("architecture", "label", "shape"),
    [
        ("llama", "model.layers.0.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)),
        ("gpt2", "transformer.h.0.mlp.c_fc.weight", (4 * HIDDEN, HIDDEN)),
        ("gpt2", "transformer.h.0.attn.c_attn.weight[key]", (HIDDEN, HIDDEN)),
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight[value]", (HIDDEN // 2, HIDDEN)),
        ("phi3", "model.layers.0.mlp.gate_up_proj.weight[up]", (INTERMEDIATE, HIDDEN)),
        ("mixtral", "model.layers.0.mlp.experts.gate_up_proj[expert2.gate]", (INTERMEDIATE, HIDDEN)),
        ("mixtral", "model.layers.0.mlp.experts.down_proj[expert2]", (HIDDEN, INTERMEDIATE)),
        ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj[expert2.gate]", (INTERMEDIATE, HIDDEN)),
        ("gpt_oss", "model.layers.0.mlp.experts.down_proj[expert2]", (HIDDEN, INTERMEDIATE)),
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value.weight[query]", (HIDDEN, HIDDEN)),
    ],
)
def test_rows_are_outputs_and_columns_inputs(architecture: str, label: str, shape: tuple[int, int]) -> None:
    view = _views(architecture, "all")[label]
    assert view.shape == shape
    assert view.read().shape == shape


def test_parts_are_where_the_modules_take_them_from() -> None:
    model = small_model("gpt_neox")
    views = {view.label: view for view in select_matrices(model, analyze_layout(model), "attn")}
    weight = model.get_parameter("gpt_neox.layers.1.attention.query_key_value.weight")
    # GPT-NeoX packs query, key and value of one head after the other, eight features each.
    key_of_head_2 = weight[2 * 24 + 8 : 2 * 24 + 16]
    key = views["gpt_neox.layers.1.attention.query_key_value.weight[key]"]
    assert torch.equal(key.read()[16:24], key_of_head_2)

    model = small_model("gpt_oss")
    views = {view.label: view for view in select_matrices(model, analyze_layout(model), "ffn")}
    weight = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj")
    # gpt-oss multiplies from the right, and interleaves gate and up.
    up = views["model.layers.1.mlp.experts.gate_up_proj[expert3.up]"]
    assert torch.equal(up.read(), weight[3, :, 1::2].t())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_views_cover_their_parameters_exactly_once(architecture: str) -> None:
    model = small_model(architecture)
    views = every_matrix(model, analyze_layout(model))
    touched = dict.fromkeys(view.parameter for view in views)
    with torch.no_grad():
        for name in touched:
            model.get_parameter(name).zero_()
    for view in views:
        view.write(view.read() + 1)
    assert all(bool((model.get_parameter(name) == 1).all()) for name in touched)


def test_every_matrix_includes_embedding_head_and_router() -> None:
    model = small_model("mixtral")
    names = {view.parameter for view in every_matrix(model, analyze_layout(model))}
    assert names == {name for name, parameter in model.named_parameters() if parameter.ndim > 1}


def test_writing_rounds_to_the_parameters_dtype_and_keeps_its_storage() -> None:
    model = small_model("gpt2", dtype=torch.bfloat16)
    weight = model.get_parameter("transformer.h.0.mlp.c_fc.weight")
    pointer = weight.data_ptr()
    view = next(
        view
        for view in select_matrices(model, analyze_layout(model), "ffn")
        if view.parameter.endswith("0.mlp.c_fc.weight")
    )
    view.write(torch.full(view.shape, 1.001))
    view.set_element(5, 3, 2.0)
    assert view.read().dtype is torch.float32
    assert weight.data_ptr() == pointer
    assert weight.dtype is torch.bfloat16
    assert float(weight.detach()[3, 5]) == 2.0
    assert float(weight.detach()[0, 0]) == 1.0


def test_offloaded_parameters_are_refused() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    nn.Module.to(model, "meta")
    with pytest.raises(ConfigurationError, match="offloaded"):
        select_matrices(model, layout, "ffn")


def test_vocabulary_is_not_a_matrix_of_any_scope() -> None:
    assert all(VOCABULARY not in view.shape for view in _views("qwen2", "all").values())
