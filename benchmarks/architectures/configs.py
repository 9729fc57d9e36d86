"""Small configurations of every causal language model that the installed transformers knows.

Transformers calls one size by many names (``hidden_size``, ``n_embd``, ``d_model``), so every size stands here under
all of them, and a configuration takes those that it knows. What an architecture needs beside that stands in
:data:`SPECIAL`. Sizes differ from each other on purpose, so that a mix-up of experts and heads, or of rows and
columns, shows.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 1040
HIDDEN = 64
LAYERS = 4
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 16
INTERMEDIATE = 96
EXPERTS = 6
POSITIONS = 256

_NAMES: tuple[tuple[str, Any], ...] = (
    (
        "hidden_size d_model n_embd embed_dim emb_dim embedding_size word_embed_proj_dim attention_hidden_size "
        "lru_width conv_dim conv_dim_out adapter_in_dim adapter_out_dim adapter_input_size",
        HIDDEN,
    ),
    ("num_hidden_layers n_layer n_layers num_layers decoder_layers", LAYERS),
    ("num_attention_heads n_head n_heads num_heads decoder_attention_heads q_heads", HEADS),
    ("intermediate_size ffn_dim ffn_hidden_size d_ff decoder_ffn_dim encoder_ffn_dim", INTERMEDIATE),
    ("max_position_embeddings n_positions n_ctx max_seq_len context_length", POSITIONS),
    ("num_experts num_local_experts n_routed_experts moe_num_experts", EXPERTS),
    ("num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts moe_top_k", 2),
)
_SIZES: Mapping[str, Any] = {
    **{name: size for names, size in _NAMES for name in names.split()},
    "vocab_size": VOCABULARY, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "encoder_layers": 1, "encoder_attention_heads": HEADS,
    "n_inner": None, "rotary_dim": 8,
    # experts
    "moe_intermediate_size": 40, "shared_expert_intermediate_size": 48, "n_shared_experts": 1, "num_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "shared_intermediate_size": 48,
    "moe_num_shared_experts": 1, "expert_ffn_hidden_size": 40, "moe_shared_expert_intermediate_size": 40,
    "moe_layer_start_index": 1, "num_dense_layers": 1,
    # latent attention
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "qk_head_dim": 24,
    # linear attention and state spaces
    "linear_head_dim": 16, "linear_num_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_num_key_heads": 4, "linear_num_value_heads": 8,
    "state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_dt_rank": 8, "mamba_expand": 2,
    "mamba_chunk_size": 16, "chunk_size": 16, "time_step_rank": 8, "n_groups": 1, "mamba_n_groups": 1,
    "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 8, "mamba_d_ssm": 128, "attention_window_size": 32,
    "sliding_window": 32, "attention_chunk_size": 32, "conv_L_cache": 3, "attn_layer_period": 2,
    "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
}  # fmt: skip
_STAY_NONE = (
    "n_inner", "sliding_window", "q_lora_rank", "attention_hidden_size", "intermediate_size", "num_key_value_heads",
    "n_shared_experts", "num_kv_heads", "time_step_rank", "moe_shared_expert_intermediate_size",
)  # fmt: skip
"""Sizes that mean something else where they are given: kept at None where that is the default."""
_LINEAR, _FULL, _SLIDING = "linear_attention", "full_attention", "sliding_attention"
_ALTERNATING = {"layer_types": [_SLIDING, _FULL, _SLIDING, _FULL]}
_GEMMA = {**_ALTERNATING, "query_pre_attn_scalar": 16}
_HYBRID = {"layer_types": [_LINEAR, _FULL, _LINEAR, _FULL]}
_PADDED = {"pad_token_id": 1}
_ROBERTAS = ("roberta", "camembert", "data2vec-text", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm")
_GEMMA4 = {
    **_ALTERNATING, "global_head_dim": 32, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 1,
}  # fmt: skip

SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "qwen3_next": {**_HYBRID, "partial_rotary_factor": 0.5},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3n_text": {
        **_GEMMA, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 1,
        "laurel_rank": 8, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "intermediate_size": [INTERMEDIATE] * 4,
    },
    "cohere2": {"layer_types": [_SLIDING, _SLIDING, _SLIDING, _FULL]},
    "olmo3": {"layer_types": [_SLIDING, _SLIDING, _SLIDING, _FULL]},
    "exaone4": {"layer_types": [_SLIDING, _SLIDING, _SLIDING, _FULL], "sliding_window_pattern": "LLLG"},
    "gpt_oss": _ALTERNATING,
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {"original_max_position_embeddings": POSITIONS},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 32},
    "minimax": {**_HYBRID, "block_size": 16},
    "lfm2": {"layer_types": ["conv", _FULL, "conv", _FULL], "block_auto_adjust_ff_dim": False, "block_multiple_of": 8},
    "lfm2_moe": {"layer_types": ["conv", _FULL, "conv", _FULL]},
    "recurrent_gemma": {"block_types": ["recurrent", "recurrent", "attention"], "num_hidden_layers": 3},
    "nemotron": {"num_key_value_heads": KV_HEADS},
    "bamba": {"attn_layer_indices": [1, 3]},
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "hybrid_layer_ids": [1, 3], "num_mem_blocks": 1,
        "attention_hidden_size": 2 * HIDDEN, "attention_head_dim": 32, "adapter_rank": 8, "mamba_ngroups": 1,
        "mamba_headdim": 16, "n_mamba_heads": 8,
    },
    "zamba": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 32, "n_mamba_heads": 2,
    },
    "mamba": {"intermediate_size": 2 * HIDDEN},
    "falcon_mamba": {"intermediate_size": 2 * HIDDEN},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 1},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": INTERMEDIATE, "moe_num_experts": EXPERTS, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "falcon": {
        "multi_query": True, "num_kv_heads": 1, "alibi": False, "new_decoder_architecture": False,
        "parallel_attn": True, "bias": False,
    },
    "deepseek_v2": {"topk_method": "greedy"},
    "qwen3_5_text": _HYBRID,
    "qwen3_5_moe_text": _HYBRID,
    "olmo_hybrid": _HYBRID,
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0], "layer_types": [_FULL] * LAYERS},
    "llama4_text": {
        "interleave_moe_layer_step": 2, "intermediate_size_mlp": INTERMEDIATE, "no_rope_layers": [1, 1, 1, 0],
        "layer_types": ["chunked_attention"] * 3 + [_FULL], "moe_layers": None,
    },
    "hunyuan_v1_moe": {"moe_topk": [2] * LAYERS, "num_shared_expert": [1] * LAYERS},
    "codegen": {"n_head": 8},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "moe"], "moe_latent_size": None},
    "modernbert-decoder": {**_ALTERNATING, "pad_token_id": 0},
    "ernie4_5_moe": {"moe_layer_interval": 1, "moe_layer_end_index": -1},
    **dict.fromkeys(_ROBERTAS, _PADDED),
    "ernie": {"pad_token_id": 0},
    "gemma4": {"text_config": {"pad_token_id": 0}},
    "gemma4_unified": {"text_config": {"pad_token_id": 0}},
    "emu3": {"text_config": {"pad_token_id": 0}},
    "xmod": {**_PADDED, "default_language": "en_XX", "languages": ["en_XX"]},
    "dots1": {"n_shared_experts": 1},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 24},
    "qwen4_exp_text": {
        "layer_types": [_LINEAR, "indexed_attention"] * 2, "indexer_n_heads": 2, "indexer_kv_heads": 1,
        "indexer_head_dim": 16, "indexer_budget": 32, "indexer_compress_ratio": 4, "ngram_vocab_size_base": 300,
        "make_ngram_vocab_size_divisible_by": 8, "split_ngram_parts": 1, "heads_per_ngram": 2, "hc_lowrank": 8,
    },
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "cohere_compass_text": {
        **_ALTERNATING,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
            for kind in (_SLIDING, _FULL)
        },
    },
    "dots3_note_text": {
        "layer_types": ["indexed_attention", _SLIDING] * 2, "index_head_dim": 16, "index_n_heads": 2, "index_topk": 8,
        "shared_experts_intermediate_size": 48, "swa_num_attention_heads": HEADS, "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 24, "swa_kv_lora_rank": 16, "swa_head_dim": 24, "swa_qk_nope_head_dim": 16,
        "swa_qk_rope_head_dim": 8, "swa_v_head_dim": 16,
    },
    "rembert": {"input_embedding_size": HIDDEN, "output_embedding_size": HIDDEN},
    "roc_bert": {
        "pronunciation_embed_dim": 16, "shape_embed_dim": 16, "pronunciation_vocab_size": 30, "shape_vocab_size": 30,
    },
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local"] * LAYERS, "attention_head_size": HEAD_DIM},
}  # fmt: skip

_POPULAR = """
llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next gemma gemma2 gemma3_text gemma3n_text phi phi3 phimoe
gpt2 gpt_neo gpt_neox gptj gpt_bigcode gpt_oss opt bloom falcon mpt stablelm starcoder2 cohere cohere2 olmo olmo2 olmo3
olmoe granite granitemoe deepseek_v2 deepseek_v3 glm glm4 glm4_moe minimax ernie4_5 hunyuan_v1_dense smollm3 nemotron
jamba mamba mamba2 falcon_mamba falcon_h1 zamba2 bamba rwkv recurrent_gemma lfm2 exaone4 dbrx seed_oss apertus helium
persimmon xglm codegen biogpt llama4_text arcee ministral3 nemotron_h granitemoehybrid qwen3_5_text
"""
_HYBRIDS = """
lfm2 lfm2_moe lfm3 falcon_h1 bamba jamba qwen3_next qwen3_5_text qwen3_5_moe_text zamba zamba2 mamba mamba2 falcon_mamba
granitemoehybrid nemotron_h olmo_hybrid minimax recurrent_gemma rwkv kimi_linear bailing_hybrid xlstm deepseek_v3
gpt_oss gemma3n_text
"""
POPULAR = tuple(_POPULAR.split())
HYBRIDS = tuple(_HYBRIDS.split())
"""Architectures whose structure half precision could hide: whoever forgets, and the largest experts."""

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "falcon-rw": (
        "falcon", {"multi_query": False, "num_kv_heads": HEADS, "alibi": True, "parallel_attn": False, "bias": True}
    ),
    "falcon-40b": ("falcon", {"num_kv_heads": KV_HEADS, "new_decoder_architecture": True}),
    "gpt_bigcode-mha": ("gpt_bigcode", {"multi_query": False}),
    "opt-350m": ("opt", {"word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-wide-heads": ("llama", {"head_dim": 48}),
    "phi3-mha": ("phi3", {"num_key_value_heads": HEADS}),
    "qwen3_moe-mixed": ("qwen3_moe", {"mlp_only_layers": [0], "decoder_sparse_step": 1}),
    "mixtral-as-many-experts-as-features": ("mixtral", {"num_local_experts": HIDDEN}),
    "deepseek_v2-lite": ("deepseek_v2", {"q_lora_rank": None}),
    "stablelm-2": ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True}),
    "zamba2-two-blocks": (
        "zamba2", {"num_mem_blocks": 2, "layers_block_type": ["hybrid"] * 4, "hybrid_layer_ids": [0, 1, 2, 3]}
    ),
}  # fmt: skip
"""Other configurations of an architecture, which compute something else."""

_LEFT_ALONE = re.compile(
    r"(A_log|\.D|dt_bias|dt_proj\.bias|time_decay|time_first|recurrent_param|time_mix\w*|\w*correction_bias)$"
)
"""Parameters whose initial values are meant: decays, which noise would turn into growth."""


def small_config(name: str) -> PreTrainedConfig:
    """Return a small configuration of an architecture or variant, by its name."""
    base, extra = VARIANTS.get(name, (name, {}))
    config_class = CONFIG_MAPPING[base]
    default = config_class()
    values = _values(default, {**SPECIAL.get(base, {}), **extra})
    text = vars(default).get("text_config")
    if isinstance(text, PreTrainedConfig):
        own = {**_values(text, SPECIAL.get(text.model_type, {})), **values.pop("text_config", {})}
        kept = (*SPECIAL.get(base, {}), "bos_token_id", "eos_token_id", "pad_token_id")
        values = {key: value for key, value in values.items() if key in kept or key not in own}
        values["text_config"] = type(text)(**own)
    for key, part in vars(default).items():
        if (
            key.endswith("_config")
            and key not in {"text_config", *SPECIAL.get(base, {})}
            and isinstance(part, PreTrainedConfig)
        ):
            values[key] = type(part)(**_values(part, {}))
    if "is_decoder" in default.to_dict():
        values["is_decoder"] = True
    return config_class(**values)


def build(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Build a model in evaluation mode whose every weight moves its output, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not _LEFT_ALONE.search(name):
                    noise = torch.randn(parameter.shape).to(parameter.dtype)
                    parameter.copy_(noise * 0.12 if parameter.ndim > 1 else parameter + noise * 0.08)
    model.train(False)
    model.requires_grad_(requires_grad=False)
    return model


def _now(config: PreTrainedConfig, key: str) -> Any:
    """Return what a configuration says; None where it says nothing, ``...`` where it differs from layer to layer."""
    try:
        return getattr(config, key, None)
    except RuntimeError:
        return ...


def _values(default: PreTrainedConfig, special: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration takes of the sizes, and what its architecture needs."""
    known = default.to_dict().keys() | default.attribute_map.keys() | inspect.signature(type(default)).parameters.keys()
    sizes = dict(_SIZES)
    if "qk_rope_head_dim" in known:
        sizes |= {"head_dim": sizes["qk_rope_head_dim"], "num_key_value_heads": HEADS}
    values: dict[str, Any] = {}
    for key, size in sizes.items():
        if key not in known or default.attribute_map.get(key) in sizes.keys() & known:  # the same by another name
            continue
        now = _now(default, key)
        if now is None and key in _STAY_NONE:
            continue
        values[key] = [size] * LAYERS if isinstance(now, (list, tuple)) else size
    layers = special.get("num_hidden_layers", LAYERS)
    for key in ("layer_types", "mlp_layer_types", "layers_block_type", "block_types"):
        now = vars(default).get(key)
        if isinstance(now, (list, tuple)) and len(now) > layers:
            kinds = list(dict.fromkeys(now))
            values[key] = [kinds[index % len(kinds)] for index in range(layers)]
    return {**values, **special}
