"""The dimensions of the models of the suite ``full``, as their authors published them. None ties its head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_UNTIED: Mapping[str, Any] = {"num_key_value_heads": 8, "tie_word_embeddings": False}
_QWEN: Mapping[str, Any] = {**_UNTIED, "vocab_size": 152_064, "hidden_size": 5120, "num_attention_heads": 40}
MISTRAL_7B: Mapping[str, Any] = {
    **_UNTIED,
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
PUBLISHED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "mistralai/Mistral-7B-v0.1": ("MistralConfig", MISTRAL_7B),
    "Qwen/Qwen2.5-14B": ("Qwen2Config", {**_QWEN, "intermediate_size": 13_824, "num_hidden_layers": 48}),
    "Qwen/Qwen2.5-32B": ("Qwen2Config", {**_QWEN, "intermediate_size": 27_648, "num_hidden_layers": 64}),
    "01-ai/Yi-34B": (
        "LlamaConfig",
        {
            **_UNTIED,
            "vocab_size": 64_000,
            "hidden_size": 7168,
            "intermediate_size": 20_480,
            "num_hidden_layers": 60,
            "num_attention_heads": 56,
        },
    ),
    "mistralai/Mixtral-8x7B-v0.1": ("MixtralConfig", {**MISTRAL_7B, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "Qwen/Qwen1.5-72B": (
        "Qwen2Config",
        {
            **_UNTIED,
            "num_key_value_heads": 64,
            "vocab_size": 152_064,
            "hidden_size": 8192,
            "intermediate_size": 24_576,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
        },
    ),
}
"""By id: transformers' name of the configuration, and its values."""
