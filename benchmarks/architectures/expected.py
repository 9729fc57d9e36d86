"""What a person expects of every parameter, read off its name; the layout, which reads no names, is held against it.

The rows are read from the top, and the first that fits decides. A pattern is matched against the end of the
parameter's path inside its block (``self_attn.q_proj.weight``), from a dot on; ``*`` is anything.
"""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache

from transformers import PreTrainedModel

from pytest_proofpack.models.layout import input_embedding, output_head

OWN: dict[str, tuple[tuple[str, str], ...]] = {
    "deepseek_v4": (("*_hc.*", "ffn"),),
    "axk2": (("*_layernorm.mlp.*", "ffn"),),
    "dbrx": (("norm_attn_norm.attn.*", "attn"),),
    "doge": (("input_residual post_attention_residual", "other"),),
    "gemma3n_text": (("altup.router_norm.*", "norm"), ("altup.*", "ffn")),
    "hy_v4": (("*_hc.*", "ffn"),),
    "inkling2_text": (("mlp_input.query attention_input.query", "ffn"),),
    "nemotron_h": (("mixer.experts.* mixer.shared_experts.*", "ffn"), ("mixer.gate.*", "router")),
}
"""Rows of one architecture, by its type; they come before the others."""

IN_BLOCKS: tuple[tuple[str, str], ...] = (
    # normalisation
    ("*norm*.weight *norm*.bias *ln_?.* ln?.* *_ln.* ln_*.* ln.* *.ln.* *LayerNorm.*", "norm"),
    # cross attention, which text alone never calls
    ("encoder_attn* crossattention.* cross_attn*", "other"),
    # what chooses experts
    ("*router.* mlp.gate.* feed_forward.gate.* block_sparse_moe.gate.* *moe.gate.*", "router"),
    # what mixes positions: attention, state spaces, linear attention, recurrences, short convolutions
    (
        "self_attn.* attn.* attention.* multi_head_attention.* self_attention.* self_att.* rel_attn.* mixer.* mamba.* "
        "*.mamba.* linear_attn.* "
        "temporal_block.* conv.* time_mix.* mlstm_layer.* *.attn.* *.self_attn.* *_sconv.* *convolution.*",
        "attn",
    ),
    # what does not: feed-forward layers with their experts, and whatever else stands in a block
    (
        "mlp.* mlps.* ffn.* ff.* feed_forward.* *.feed_forward.* fc?.* intermediate.* output.* experts.* "
        "block_sparse_moe.* moe.* shared_mlp.* shared_expert* mlp_block.* channel_mix.* c_fc.* dense_*",
        "ffn",
    ),
    ("*", "ffn"),
)
OUTSIDE: tuple[tuple[str, str], ...] = (
    ("*altup_* *embedding_hidden_mapping_in.* *map_inputs_layer.*", "other"),
    ("*norm.weight *norm.bias *norm_?.weight *ln_f.* *ln_out.* *.ln.* *LayerNorm.* *layernorm_embedding.*", "norm"),
    ("*embed*.weight *wte.* *wpe.* *word_embeddings.* *position_embeddings.*", "embed"),
    ("*", "other"),
)

NO_WEIGHTS = (
    # state spaces and recurrences: decays, skips, steps, convolutions, shifts
    "*A_log *.D *dt_bias *conv1d.weight *conv_1d.weight *conv_qk_* *sconv.static_weight *conv.conv.weight "
    "*time_mix_* *time_decay *time_first *rg_lru.* *x_proj_weight *dt_proj_weight "
    # attention: sinks, relative positions, scales
    "*sinks *rel_logits_proj.proj *l2_clip.scale "
    # gates of one row, biases, mixtures of residual streams
    "*shared_expert_gate.weight *_bias *bias *.query *_hc.*"
)
"""Parameters of two and more dimensions that are no weight matrix. Nobody would quantize them, but for the weights of
single heads that RecurrentGemma and Zamba keep in parameters of their own: those are measured, and not edited."""
NOT_TOLD_APART = frozenset({"codegen", "minimax"})
"""Fused matrices that are edited whole: linear attention, where queries and keys matter at position 0 too, and one that
puts values between queries and keys."""
CROSS = {"mllama_text_model": re.compile(r"layers\.3\.(?!.*norm)")}
"""Blocks that only look at an image, by type of model."""
OTHER_SENSES = re.compile(r"vision|audio|image|img_|multi_modal|mm_|visual")
"""What a model sees or hears with; a pass over text leaves it out."""
BLOCKS = re.compile(r"^(.*?\.)?(layers|layer|h|blocks|block)\.\d+\.")


def expected_role(model: PreTrainedModel, name: str) -> str:
    """Return the group that a person would give a parameter."""
    if model.get_parameter(name) is input_embedding(model).weight:
        return "embed"
    if model.get_submodule(name.rpartition(".")[0]) is output_head(model):
        return "head"
    kind = model.config.get_text_config().model_type
    if OTHER_SENSES.search(name) or (kind in CROSS and CROSS[kind].search(name)):
        return "other"
    inside = BLOCKS.match(name)
    rows = (*OWN.get(kind, ()), *(IN_BLOCKS if inside else OUTSIDE))
    tail = name[inside.end() :] if inside else name
    return next(role for patterns, role in rows if _matches(tail, patterns))


def is_edited(model: PreTrainedModel, name: str, role: str) -> bool:
    """Tell whether a person would call a parameter a weight matrix, or a stack of them."""
    return model.get_parameter(name).ndim in (2, 3) and role != "norm" and not _matches(name, NO_WEIGHTS)


def _matches(text: str, patterns: str) -> bool:
    return any(_pattern(pattern).match(text) for pattern in patterns.split())


@lru_cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))
