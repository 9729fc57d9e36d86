"""What memory depends on: the shape of a model, from its configuration and tensors, or guessed from its size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.models.files import BYTES_PER_PARAMETER
from pytest_proofpack.models.safetensors_files import TensorHeader

_STEPWISE = ("gelu_new", "gelu_fast", "quick_gelu")
"""Activation functions that transformers computes in several steps, each with a tensor of its own."""
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 2, "F8_E5M2": 2, "I64": 8, "I32": 4, "I16": 2}
"""Bytes of a value once it is loaded, by safetensors' name of its type: 8-bit floats are loaded as bfloat16."""
_LOADED_AS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_MXFP4_BYTES = 4
"""A byte of a packed mxfp4 tensor holds two values, which are loaded as bfloat16."""
_IN_LAYER = re.compile(r"(?:^|\.)\d+\.")


@dataclass(frozen=True)
class ModelShape:
    """What memory depends on. A matrix is a tensor of two dimensions, or one entry of a tensor of three (experts).

    Attributes:
        weights: bytes of all tensors as they are loaded.
        item_bytes: bytes of one value of the states that flow through the model.
        largest: elements of the largest matrix.
        largest_in_layers: elements of the largest matrix that is not an embedding or a head.
        norms: rows plus twice the columns, summed over all matrices: values that the spectral guard keeps.
        embedding: elements of the embedding.
        tied: whether the head is the embedding, because there is no other matrix of its size outside of the layers.
        layer: bytes of one layer.
        fused: bytes of the largest tensor of three dimensions; 0 without any.
        layers: how many there are.
        hidden: width of the states.
        queries, keys: width of all query heads and of all key heads together.
        feed_forward: values per token that are alive in a feed-forward sublayer.
        vocabulary: number of tokens.
    """

    weights: int
    item_bytes: int
    largest: int
    largest_in_layers: int
    norms: int
    embedding: int
    tied: bool
    layer: int
    fused: int
    layers: int
    hidden: int
    queries: int
    keys: int
    feed_forward: int
    vocabulary: int


def model_shape(config: JsonObject, tensors: Mapping[str, TensorHeader]) -> ModelShape:
    """Return what memory depends on, of a model whose configuration and tensors are known.

    Args:
        config: its ``config.json``. A value that is missing there, or no number, is guessed from the size.
        tensors: by name; a stack of experts may be one tensor or many.
    """
    config = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    sizes = {name: _loaded_bytes(header, dtype, config) for name, header in tensors.items()}
    parameters = sum(math.prod(header.shape) for header in tensors.values())
    weights, guess = sum(sizes.values()), guessed_shape(parameters)
    matrices = {name: header.shape for name, header in tensors.items() if len(header.shape) in {2, 3}}
    elements = {name: math.prod(shape[-2:]) for name, shape in matrices.items()}
    in_layers = {name: size for name, size in sizes.items() if _IN_LAYER.search(name)}
    layers = _value(config, ("num_hidden_layers", "n_layer", "num_layers"), guess.layers)
    hidden = _value(config, ("hidden_size", "n_embd", "d_model"), guess.hidden)
    heads = _value(config, ("num_attention_heads", "n_head"), max(1, hidden // 128))
    head = _value(config, ("head_dim",), max(1, hidden // heads))
    vocabulary = _value(config, ("vocab_size",), guess.vocabulary)
    item = _LOADED_AS.get(dtype) or (4 if any(header.dtype == "F32" for header in tensors.values()) else 2)
    return ModelShape(
        weights=weights,
        item_bytes=item,
        largest=max(elements.values(), default=guess.largest),
        largest_in_layers=max(
            (size for name, size in elements.items() if name in in_layers), default=guess.largest_in_layers
        ),
        norms=sum(_stacked(shape) * (shape[-2] + 2 * shape[-1]) for shape in matrices.values()),
        embedding=vocabulary * hidden,
        tied=sum(size == vocabulary * hidden for name, size in elements.items() if name not in in_layers) < 2,
        layer=sum(in_layers.values()) // layers,
        fused=_fused_bytes(config, tensors, sizes, layers),
        layers=layers,
        hidden=hidden,
        queries=heads * head,
        keys=_value(config, ("num_key_value_heads",), heads) * head,
        feed_forward=_feed_forward(config, hidden),
        vocabulary=vocabulary,
    )


def guessed_shape(parameters: int) -> ModelShape:
    """Return a likely shape of a dense model of so many parameters whose files are not here.

    A layer of width h has about 12 h^2 parameters, and models are about 128 times as wide as they are deep. The
    vocabulary is a large one of today. For models of 7 to 72 billion parameters the plan is right within a quarter.
    """
    hidden = max(64, round((128 * parameters / 12) ** (1 / 3)))
    layers = max(1, round(hidden / 128))
    inner, vocabulary = 7 * hidden // 2, min(152_064, max(1, parameters // (4 * hidden)))
    return ModelShape(
        weights=parameters * BYTES_PER_PARAMETER,
        item_bytes=BYTES_PER_PARAMETER,
        largest=max(vocabulary, inner) * hidden,
        largest_in_layers=inner * hidden,
        norms=layers * 7 * 3 * max(inner, hidden) + 2 * vocabulary,
        embedding=vocabulary * hidden,
        tied=False,
        layer=parameters * BYTES_PER_PARAMETER // layers,
        fused=0,
        layers=layers,
        hidden=hidden,
        queries=hidden,
        keys=hidden,
        feed_forward=3 * inner,
        vocabulary=vocabulary,
    )


def _feed_forward(config: JsonObject, hidden: int) -> int:
    """Return the values per token alive at the widest point: gate, up and product, of every expert it goes through.

    A token is copied for each of its experts, and comes back from each.
    """
    inner = _value(config, ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 4 * hidden)
    used = config.get("num_experts_per_tok")
    if not isinstance(used, int) or used < 1:
        function = config.get("hidden_act") or config.get("activation_function")
        return (5 if function in _STEPWISE else 3) * inner
    expert = _value(config, ("moe_intermediate_size",), inner)
    return max(3 * inner, used * (2 * hidden + 4 * expert))


def _fused_bytes(config: JsonObject, tensors: Mapping[str, TensorHeader], sizes: Mapping[str, int], layers: int) -> int:
    """Return the bytes of the largest tensor of a layer's experts as it is in memory, where they are one tensor.

    Gate and up of all experts are joined while they are loaded: two of three matrices.
    """
    joined = max((sizes[name] for name, header in tensors.items() if len(header.shape) == 3), default=0)
    apart = sum(size for name, size in sizes.items() if ".experts." in name)
    return max(joined, 2 * apart // (3 * layers) if isinstance(config.get("num_experts_per_tok"), int) else 0)


def _loaded_bytes(header: TensorHeader, dtype: str, config: JsonObject) -> int:
    values = math.prod(header.shape)
    if header.dtype in {"F64", "F32", "F16", "BF16"}:
        return values * _LOADED_AS.get(dtype, _BYTES[header.dtype])
    quantization = config.get("quantization_config")
    if header.dtype == "U8" and isinstance(quantization, dict) and quantization.get("quant_method") == "mxfp4":
        return values * _MXFP4_BYTES
    return values * _BYTES.get(header.dtype, 1)


def _stacked(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else 1


def _value(config: JsonObject, keys: Sequence[str], default: int) -> int:
    """Return the first of these entries that is a positive number, or else the default."""
    found = (config.get(key) for key in keys)
    return next((value for value in found if isinstance(value, int) and value > 0), default)
