"""Tiny causal language models of many architectures, built from their configuration with seeded random weights.

Dimensions differ from each other on purpose, so that a mix-up of rows and columns, or of experts and heads, shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from pytest_proofpack.plan.edit_specs import parse_edit_spec
from pytest_proofpack.plan.records import EditSpec

VOCABULARY = 128
HIDDEN = 32
HEADS = 4
INTERMEDIATE = 48
EXPERTS = 6
LAYERS = 3

_COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_GROUPED: Mapping[str, Any] = {**_COMMON, "num_key_value_heads": 2}

_CONFIGS: Mapping[str, Callable[[], tuple[str, Mapping[str, Any]]]] = {
    "llama": lambda: ("LlamaConfig", {**_GROUPED, "tie_word_embeddings": False}),
    "mistral": lambda: ("MistralConfig", {**_GROUPED, "sliding_window": 64, "tie_word_embeddings": False}),
    "qwen2": lambda: ("Qwen2Config", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen3": lambda: ("Qwen3Config", {**_GROUPED, "head_dim": 16, "tie_word_embeddings": False}),
    "mixtral": lambda: ("MixtralConfig", {**_GROUPED, "num_local_experts": EXPERTS, "tie_word_embeddings": False}),
    "qwen2_moe": lambda: (
        "Qwen2MoeConfig",
        {
            **_GROUPED,
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            "tie_word_embeddings": False,
        },
    ),
    "gpt_oss": lambda: (
        "GptOssConfig",
        {**_GROUPED, "head_dim": 16, "num_local_experts": EXPERTS, "tie_word_embeddings": False},
    ),
    "phi3": lambda: ("Phi3Config", {**_GROUPED, "tie_word_embeddings": False}),
    "gemma": lambda: ("GemmaConfig", {**_GROUPED, "head_dim": 16, "tie_word_embeddings": True}),
    "gpt_neox": lambda: ("GPTNeoXConfig", {**_COMMON, "tie_word_embeddings": False}),
    "gpt2": lambda: (
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 256,
         "bos_token_id": 0, "eos_token_id": 1},
    ),
    "mpt": lambda: (
        "MptConfig",
        {"vocab_size": VOCABULARY, "d_model": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": 256},
    ),
    "opt": lambda: (
        "OPTConfig",
        {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
         "ffn_dim": INTERMEDIATE, "word_embed_proj_dim": HIDDEN, "max_position_embeddings": 256},
    ),
}  # fmt: skip

ARCHITECTURES = tuple(_CONFIGS)
"""The names that :func:`small_model` knows."""


def small_model(
    architecture: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: object
) -> PreTrainedModel:
    """Build a tiny model in evaluation mode.

    Args:
        architecture: one of :data:`ARCHITECTURES`.
        seed: of the random weights; the global random state is left as it was.
        dtype: of the weights.
        overrides: configuration values that replace the defaults, for example ``num_hidden_layers=2``.
    """
    class_name, values = _CONFIGS[architecture]()
    config = getattr(transformers, class_name)(**{**values, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
        _make_weights_matter(model)
    model.train(False)
    return model


def logits_of(model: PreTrainedModel, *, length: int = 24, seed: int = 0) -> torch.Tensor:
    """Return the logits of one seeded sequence of tokens, shape (length, vocabulary)."""
    tokens = torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits[0].float()


def fingerprint(model: PreTrainedModel) -> str:
    """Return a digest of everything that makes up a model.

    Values, dtypes, strides and storage of all parameters and buffers under all of their names (so that tying shows),
    the module tree with its modes and plain attributes, and the configuration.
    """
    digest = hashlib.sha256()
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        facts = (name, tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr(), id(tensor), tensor.requires_grad)
        digest.update(repr(facts).encode() + raw)
    for name, module in model.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
        digest.update(repr((name, id(module), sorted(plain.items()))).encode())
    digest.update(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def weights_digest(model: torch.nn.Module) -> str:
    """Return a hexadecimal SHA-256 of everything a model computes with, bit for bit.

    Over name, dtype, shape and raw bytes of every parameter and buffer, persistent or not, in the order of names. A
    tensor that stands under several names counts once, under the first, so untying changes the digest.
    """
    digest = hashlib.sha256()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # NumPy knows no bfloat16, hence bytes; a scalar has no last dimension to view as bytes, hence flat.
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def _make_weights_matter(model: PreTrainedModel) -> None:
    """Draw every parameter anew, so that no weight is zero, no gain one, and every matrix moves the output.

    Deviation 0.15 for matrices and vectors alike; gains of norms keep their initial value as mean.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape) * 0.15
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)


def edit_spec(text: str) -> EditSpec:
    """Return the edit of a specification that leaves nothing to be tuned."""
    spec = parse_edit_spec(text)
    assert isinstance(spec, EditSpec)
    return spec
