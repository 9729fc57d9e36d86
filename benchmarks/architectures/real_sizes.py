"""Published sizes, on the meta device: how their parameters split into matrices, without a single weight.

The group of a parameter is that of its small twin, which was run; experts, and the halves and thirds of fused matrices,
are found in the real shapes. Sizes are those of the published configurations; ``source`` says whether transformers'
own defaults hold them, or they are written out here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.architectures.configs import build, small_config
from pytest_proofpack.models.experts import configured_counts, find_experts
from pytest_proofpack.models.layout import ModelLayout, ParameterGroup, analyze_layout
from pytest_proofpack.models.matrices import matrix_parts

DEFAULTS, WRITTEN = "transformers' defaults", "the published config.json, written out"


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        name: on the hub.
        architecture: its type.
        source: where its sizes are from.
        parameters: as its publisher counts them, in words.
        values: what differs from transformers' defaults.
    """

    name: str
    architecture: str
    source: str
    parameters: str
    values: Mapping[str, Any]


_LFM2_LAYERS = [
    "full_attention" if index in {2, 5, 8, 10, 12, 14} else "conv" for index in range(16)
]  # fmt: skip
PUBLISHED = (
    Published(
        "deepseek-ai/DeepSeek-V2", "deepseek_v2", WRITTEN, "236B",
        {
            "vocab_size": 102400, "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
            "num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 2,
            "n_routed_experts": 160, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128, "v_head_dim": 128, "topk_method": "group_limited_greedy", "n_group": 8,
            "topk_group": 3, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "tie_word_embeddings": False,
        },
    ),
    Published("deepseek-ai/DeepSeek-V3", "deepseek_v3", DEFAULTS, "671B", {"tie_word_embeddings": False}),
    Published(
        "LiquidAI/LFM2-1.2B", "lfm2", WRITTEN, "1.17B",
        {
            "vocab_size": 65536, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 12288, "block_auto_adjust_ff_dim": True,
            "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256, "conv_L_cache": 3, "layer_types": _LFM2_LAYERS,
        },
    ),
    Published("mistralai/Mamba-Codestral-7B-v0.1", "mamba2", DEFAULTS, "7.3B", {}),
    Published("ai21labs/Jamba-v0.1", "jamba", DEFAULTS, "52B", {}),
    Published(
        "openai/gpt-oss-20b", "gpt_oss", WRITTEN, "20.9B",
        {"num_hidden_layers": 24, "num_local_experts": 32, "layer_types": ["sliding_attention", "full_attention"] * 12},
    ),
    Published("openai/gpt-oss-120b", "gpt_oss", DEFAULTS, "117B", {}),
    Published("Qwen/Qwen3-Next-80B-A3B-Instruct", "qwen3_next", DEFAULTS, "80B", {}),
    Published("google/gemma-3n-E4B (text)", "gemma3n_text", DEFAULTS, "8B with image and sound", {}),
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """How a kind of parameter splits.

    Attributes:
        pattern: its path inside a block, ``*`` for numbers.
        group: its group.
        count: how many of them there are.
        shape: of each.
        matrices: how many matrices each holds: experts times parts.
        parts: the names of the parts, experts' numbers left out.
        matrix: shape of the first of them.
    """

    pattern: str
    group: str
    count: int
    shape: tuple[int, ...]
    matrices: int
    parts: tuple[str, ...]
    matrix: tuple[int, ...]


def build_without_weights(published: Published) -> PreTrainedModel:
    """Build a published model on the meta device."""
    config = CONFIG_MAPPING[published.architecture](**published.values)
    with torch.device("meta"):
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model


def real_layout(model: PreTrainedModel, architecture: str) -> ModelLayout:
    """Return the layout of a model without weights: groups by its small twin, experts by its own shapes.

    Raises:
        LookupError: it has a parameter whose like its twin has not.
    """
    small = analyze_layout(build(small_config(architecture)))
    assert not small.qkv  # none of these fuses queries, keys and values into one matrix
    roles = {_pattern(name): group for name, group in small.groups.items()}
    single = {_pattern(name) for name, count in small.weights.items() if count == 1}
    groups = {name: roles[_pattern(name)] for name, _ in model.named_parameters()}
    stacked: dict[str, int] = {}
    counts, hidden = configured_counts(model), model.config.get_text_config().hidden_size
    likes = {_pattern(sublayer.name): sublayer.group for sublayer in small.sublayers}
    for name, module in model.named_modules():
        if (group := likes.get(_pattern(name))) is not None:
            in_attention = group is ParameterGroup.ATTN
            stacked |= find_experts(name, module, counts, hidden, in_attention=in_attention).stacked
    weights = {name: stacked.get(name, 1) for name in groups if name in stacked or _pattern(name) in single}
    return replace(small, groups=groups, weights=weights, qkv={})


def splits(model: PreTrainedModel, layout: ModelLayout) -> Iterator[Split]:
    """Yield how each kind of weight in blocks splits into matrices."""
    seen: Counter[tuple[str, tuple[int, ...]]] = Counter()
    first: dict[tuple[str, tuple[int, ...]], str] = {}
    for name in layout.weights:
        key = (_pattern(name), tuple(model.get_parameter(name).shape))
        seen[key] += 1
        first.setdefault(key, name)
    for (pattern, shape), count in seen.items():
        name = first[pattern, shape]
        parts = list(matrix_parts(model, layout, name, model.get_parameter(name)))
        kinds = tuple(dict.fromkeys(re.sub(r"^expert\d+\.?", "", part) for part, _ in parts))
        yield Split(pattern, str(layout.groups[name]), count, shape, len(parts), kinds, tuple(parts[0][1].shape))


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
