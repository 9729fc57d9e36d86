"""The structure of a model as the invariants guard sees it, and in what two structures differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.guards.facts import canonical, changed_keys, differing_keys
from pytest_proofpack.guards.inventory import Inventory
from pytest_proofpack.guards.vocabulary_growth import CONFIG_KEY, GROWN, has_grown, is_table

_SENTENCE_LENGTH = 300
SAID_TWICE = ", said twice"
"""Ends the name under which a configuration holds what its file says besides what was taken of it."""

# Configuration that changes what the model computes. Names are those of transformers' configurations.
COMPUTATION_KEYS = frozenset(
    {
        "activation_function", "attention_bias", "attn_logit_softcapping", "clip_qkv", "embedding_multiplier",
        "final_logit_softcapping", "head_dim", "hidden_act", "hidden_activation", "hidden_size",
        "intermediate_size", "layer_norm_eps", "layer_norm_epsilon", "layer_types", "logits_scaling",
        "max_window_layers", "mlp_bias", "model_type", "n_embd", "n_head", "n_inner", "n_layer",
        "norm_topk_prob", "num_attention_heads", "num_experts", "num_experts_per_tok", "num_hidden_layers",
        "num_key_value_heads", "num_local_experts", "partial_rotary_factor", "query_pre_attn_scalar",
        "residual_multiplier", "rms_norm_eps", "rope_local_base_freq", "rope_parameters", "rope_scaling",
        "rope_theta", "rotary_pct", "scale_attn_by_inverse_layer_idx", "scale_attn_weights", "sliding_window",
        "tie_word_embeddings", "use_parallel_residual", "use_sliding_window", "vocab_size",
    }
)  # fmt: skip
# Configuration that says how a model is stored, called or described, but not what it computes.
COSMETIC_KEYS = frozenset(
    {
        "_attn_implementation", "_attn_implementation_internal", "_experts_implementation",
        "_experts_implementation_internal", "_name_or_path", "architectures", "attn_implementation", "auto_map",
        "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label", "is_encoder_decoder",
        "label2id", "name_or_path", "output_attentions", "output_hidden_states", "pad_token_id", "problem_type",
        "return_dict", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip


@dataclass(frozen=True)
class TensorFacts:
    """Shape, dtype and finiteness of one parameter or buffer.

    ``non_finite`` counts values that are NaN or infinite; ``infinite_at`` is a digest of where they stand and of their
    signs, if all of them are infinite: a mask, say. NaN is never meant.
    """

    shape: tuple[int, ...]
    dtype: str
    non_finite: int = 0
    infinite_at: str | None = None

    def shares_infinite(self, other: TensorFacts | None) -> bool:
        """Tell whether all values that are not finite stand in the other just so."""
        return other is not None and self.infinite_at is not None and self.infinite_at == other.infinite_at


@dataclass(frozen=True)
class StructureMeasure:
    """Everything the invariants guard compares.

    Attributes:
        tensors: parameters and buffers by name; tied ones once, under their first name.
        norm_modules: class of every normalisation module by name.
        tied: groups of names that share one storage, each sorted.
        config_tied: whether the configuration says that head and embedding are tied.
        vocabulary: sizes by place: ``embedding``, ``head``, ``config``, ``tokenizer``.
        config: the model's configuration as JSON.
        loading: keys that loading reported, by kind: ``missing``, ``unexpected``, ``mismatched``.
        tokenizer: fingerprint of the model's own tokenizer; None where nothing is known of one.
        inventory: of a baseline, what of it there is to be judged.
    """

    tensors: Mapping[str, TensorFacts]
    norm_modules: Mapping[str, str]
    tied: tuple[tuple[str, ...], ...]
    config_tied: bool
    vocabulary: Mapping[str, int]
    config: Mapping[str, Any]
    loading: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokenizer: str | None = None
    inventory: Inventory = field(default_factory=Inventory)

    def summary(self, baseline: StructureMeasure | None = None) -> JsonObject:
        """Return the facts a certificate records: counts, vocabulary, tying, and a digest over all of them.

        With the baseline of a subject, also how many of the values that are not finite both share, if any.
        """
        shared = 0 if baseline is None else _shared_non_finite(baseline, self)
        return {
            **({"non_finite_shared": shared} if shared else {}),
            **({"tokenizer": self.tokenizer} if self.tokenizer else {}),
            "tensors": len(self.tensors),
            "norm_modules": len(self.norm_modules),
            "non_finite": sum(facts.non_finite for facts in self.tensors.values()),
            "tied": [list(group) for group in self.tied],
            "config_tied": self.config_tied,
            "vocabulary": dict(self.vocabulary),
            "sha256": sha256_of(
                {
                    "tensors": {name: [list(f.shape), f.dtype] for name, f in self.tensors.items()},
                    "norm_modules": dict(self.norm_modules),
                    "tied": [list(group) for group in self.tied],
                    "config": canonical({key: v for key, v in self.config.items() if key not in COSMETIC_KEYS}),
                }
            ),
        }


def _shared_non_finite(baseline: StructureMeasure, subject: StructureMeasure) -> int:
    shared = (facts for name, facts in subject.tensors.items() if facts.shares_infinite(baseline.tensors.get(name)))
    return sum(facts.non_finite for facts in shared)


Difference = tuple[str, Sequence[str], str]
"""Its kind, the names of what differs, and a sentence."""


def differences(baseline: StructureMeasure, subject: StructureMeasure, *, grew: bool) -> list[Difference]:
    """Return every structural difference between baseline and subject.

    Args:
        baseline: the baseline's structure.
        subject: the subject's.
        grew: whether a vocabulary may have grown: that of a subject that was loaded.
    """
    grown = _grown_tables(baseline, subject) if grew else ()
    return [
        *_tensor_violations(baseline, subject, grown),
        *_tying_violations(baseline, subject),
        *_vocabulary_violations(baseline, subject, grown),
        *_config_violations(baseline.config, subject.config, {CONFIG_KEY} if grown else ()),
        *_named(
            "norm_modules",
            changed_keys(baseline.norm_modules, subject.norm_modules),
            "normalisation modules differ",
        ),
        *_loading_violations(subject.loading),
        *_tokenizer_violations(baseline, subject),
        *_layout_violations(baseline.inventory.warnings),
    ]


def _named(kind: str, names: Sequence[str], message: str) -> list[Difference]:
    return [(kind, sorted(names), message)] if names else []


def _grown_tables(baseline: StructureMeasure, subject: StructureMeasure) -> tuple[str, ...]:
    """Return the tensors that differ in shape only because the vocabulary grew; nothing if it did not just grow."""
    sizes = baseline.vocabulary, subject.vocabulary
    if not has_grown(*sizes):
        return ()
    common = baseline.tensors.keys() & subject.tensors.keys()
    shapes = {name: (baseline.tensors[name].shape, subject.tensors[name].shape) for name in common}
    return tuple(sorted(name for name, pair in shapes.items() if is_table(*pair, sizes)))


def _tensor_violations(
    baseline: StructureMeasure, subject: StructureMeasure, grown: Collection[str]
) -> list[Difference]:
    ours, theirs = baseline.tensors, subject.tensors
    common = ours.keys() & theirs.keys()
    # A tensor that became tied, or stopped being so, is named by the tying check.
    tied = {name for group in (*baseline.tied, *subject.tied) for name in group}
    non_finite = {
        name: facts.non_finite
        for name, facts in theirs.items()
        if facts.non_finite and not facts.shares_infinite(ours.get(name))
    }
    return [
        *_named("missing_tensors", list(ours.keys() - theirs.keys() - tied), "tensors of the baseline are missing"),
        *_named(
            "unexpected_tensors",
            list(theirs.keys() - ours.keys() - tied),
            "tensors the baseline does not have",
        ),
        *_named("shape", [n for n in common - {*grown} if ours[n].shape != theirs[n].shape], "shapes differ"),
        *_named("dtype", [n for n in common if ours[n].dtype != theirs[n].dtype], "dtypes differ"),
        *_named("non_finite", list(non_finite), f"{sum(non_finite.values())} values are NaN or infinite"),
    ]


def _tying_violations(baseline: StructureMeasure, subject: StructureMeasure) -> list[Difference]:
    found: list[Difference] = []
    changed = set(baseline.tied) ^ set(subject.tied)
    if changed:
        verb = "no longer share" if set(baseline.tied) - set(subject.tied) else "now share"
        found += _named("tying", sorted({name for group in changed for name in group}), f"tensors {verb} one storage")
    if baseline.config_tied != subject.config_tied:
        message = f"tie_word_embeddings is {subject.config_tied}, the baseline's is {baseline.config_tied}"
        found += _named("tying", ["config.tie_word_embeddings"], message)
    return found


def _vocabulary_violations(
    baseline: StructureMeasure, subject: StructureMeasure, grown: Sequence[str]
) -> list[Difference]:
    places = changed_keys(baseline.vocabulary, subject.vocabulary)
    sizes = ", ".join(f"{p} {baseline.vocabulary.get(p)} -> {subject.vocabulary.get(p)}" for p in sorted(places))
    if grown:
        return _named(GROWN, grown, f"the vocabulary grew ({sizes}); the rows that both have were compared")
    return _named("vocabulary", places, f"vocabulary sizes differ: {sizes}")


def _config_violations(
    baseline: Mapping[str, Any], subject: Mapping[str, Any], explained: Collection[str] = ()
) -> list[Difference]:
    left_out = COSMETIC_KEYS.union(explained)
    changed = [key for key in differing_keys(baseline, subject) if key not in left_out]
    known = sorted(key for key in changed if key.removesuffix(SAID_TWICE) in COMPUTATION_KEYS)
    shown = ", ".join(f"{key} {baseline.get(key)!r} -> {subject.get(key)!r}" for key in known[:3])
    return [
        *_named("config", known, f"configuration that changes the computation differs: {shown}"),
        *_named("config_unknown", [key for key in changed if key not in known], "other configuration differs"),
    ]


def _loading_violations(loading: Mapping[str, tuple[str, ...]]) -> list[Difference]:
    return [
        found
        for kind in sorted(loading)
        for found in _named("loading", list(loading[kind]), f"{kind} keys when loading the subject")
    ]


def _tokenizer_violations(baseline: StructureMeasure, subject: StructureMeasure) -> list[Difference]:
    """Compare tokenizers that are both known. Windows are made by the baseline's, so the losses tell nothing of it."""
    if baseline.tokenizer is None or subject.tokenizer is None or baseline.tokenizer == subject.tokenizer:
        return []
    message = (
        "the subject's own tokenizer is another one (it splits or numbers text, ends it, or adds tokens otherwise); "
        "measured was on the baseline's tokens"
    )
    return [("tokenizer", ["tokenizer"], message)]


def _layout_violations(warnings: Sequence[str]) -> list[Difference]:
    """Say what could not be told of the baseline's structure: no difference, but what no guard looked at."""
    shown = [text[:_SENTENCE_LENGTH] for text in warnings]
    return [("layout", shown, "of the model's own structure something could not be told")] if shown else []
