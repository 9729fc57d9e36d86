"""A model's packed weights as a model of dense ones: values that a format yields, and the model's own tensors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.dense_weights import dense_weights
from tests.support.small_models import small_model

UP = "model.layers.0.mlp.up_proj"


class Codes(nn.Module):
    """A linear module whose weight is kept as integers."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(weight.abs().amax() / 127)
        codes = (weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)


def packed(architecture: str = "llama") -> PreTrainedModel:
    model = small_model(architecture)
    model.set_submodule(UP, Codes(model.get_parameter(f"{UP}.weight").detach()))
    return model


def unpack(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, Codes):
            yield f"{name}.weight", module.weight * module.scale


def test_names_and_shapes_are_the_dense_models() -> None:
    before, model = small_model("llama"), packed()
    dense = dense_weights(model, unpack, "x")
    assert {name: own.shape for name, own in dense.named_parameters()} == {
        name: own.shape for name, own in before.named_parameters()
    }
    values, known = dense.get_parameter(f"{UP}.weight"), before.get_parameter(f"{UP}.weight")
    torch.testing.assert_close(values, known, rtol=0, atol=known.abs().max().item() / 200)
    assert not any(own.is_meta or own.requires_grad for own in (*dense.parameters(), *dense.buffers()))


def test_what_is_not_packed_is_the_models_own_and_tied_stays_tied() -> None:
    model = packed("qwen2")
    dense = dense_weights(model, unpack, "x")
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert dense.get_parameter(name) is model.get_parameter(name)
    assert dense.get_parameter("lm_head.weight") is dense.get_parameter("model.embed_tokens.weight")


def test_a_packed_parameter_that_nobody_unpacks_is_named() -> None:
    with pytest.raises(EvaluationError, match=rf"x: 1 parameters stay packed, and .* are worth \({UP}\.weight\)"):
        dense_weights(packed(), lambda _model: (), "x")


def test_values_of_another_shape_than_the_configuration_says() -> None:
    with pytest.raises(EvaluationError, match=rf"x: {UP}.weight is unpacked to \(2, 2\), and the configuration says"):
        dense_weights(packed(), lambda _model: [(f"{UP}.weight", torch.ones(2, 2))], "x")
