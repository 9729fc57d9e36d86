"""The invariants guard: has the subject the structure of its baseline, and only finite numbers?

The metric alone lets structural damage through: a missing norm, a changed vocabulary or an untied head can leave
perplexity where it was. What a difference is worth (fatal or warning) is policy; what counts as one is decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.facts import canonical, changed_keys, differing_keys
from pytest_proofpack.guards.guard import INVARIANTS, Block, Gate, Guard, Rules, Shared, Words
from pytest_proofpack.guards.invariants_schema import SCHEMA
from pytest_proofpack.guards.inventory import Inventory
from pytest_proofpack.guards.vocabulary_growth import CONFIG_KEY, GROWN, has_grown, is_table, keeps_vocabulary

NAMES_SHOWN = 8
"""How many names a violation lists; the count is always exact."""
_SENTENCE_LENGTH = 300

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

_STRUCTURAL_KINDS = frozenset(
    {
        "config",
        "config_unknown",
        "dtype",
        "missing_tensors",
        "norm_modules",
        "shape",
        "tying",
        "unexpected_tensors",
        GROWN,
    }
)


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


@dataclass(frozen=True)
class Violation:
    """One kind of difference: how many places it has, the first few of them, and what was found."""

    kind: str
    severity: str
    count: int
    names: tuple[str, ...]
    message: str

    def to_json(self) -> JsonObject:
        """Return the JSON form recorded in the certificate."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "names": list(self.names),
            "message": self.message,
        }


def compare_structure(
    baseline: StructureMeasure, subject: StructureMeasure, policy: Mapping[str, Any], label: str | None = None
) -> tuple[Violation, ...]:
    """List every structural difference between baseline and subject, most severe first.

    Args:
        baseline: the baseline's structure.
        subject: the subject's.
        policy: the ``invariants`` section: lists of kinds under ``fatal`` and ``warning``.
        label: what the edit of a subject that was loaded is called; None of a model edited in memory.
    """
    grown = () if label is None else _grown_tables(baseline, subject)
    found = [
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
    graded = [
        Violation(kind, severity_of(kind, policy, label), len(names), tuple(names[:NAMES_SHOWN]), message)
        for kind, names, message in found
    ]
    return tuple(sorted(graded, key=lambda violation: (violation.severity != "fatal", violation.kind)))


def severity_of(kind: str, policy: Mapping[str, Any], label: str | None = None) -> str:
    """Return ``"warning"`` for kinds that the policy lists as warnings, ``"fatal"`` for everything else.

    A vocabulary that grew is fatal, whatever the policy, where the label of the edit says that only values changed.
    """
    if kind == GROWN and (label is None or keeps_vocabulary(label)):
        return "fatal"
    return "warning" if kind in policy["warning"] else "fatal"


def status_of(severities: Iterable[str]) -> str:
    """Return ``"pass"``, ``"warn"`` or ``"fail"`` for the severities of a certificate's violations."""
    found = set(severities)
    return "fail" if found - {"warning"} else ("warn" if found else "pass")


def derive_invariants(block: Mapping[str, Any], rules: Mapping[str, Any], label: str | None = None) -> JsonObject:
    """Return what follows from a certificate's ``invariants`` block: its status and counts of violations.

    Args:
        block: the evidence.
        rules: the ``invariants`` section of the policy.
        label: what the edit of a subject that was loaded is called; None of a model edited in memory.

    Raises:
        FormatError: the list of violations contradicts the facts beside it, or a severity the policy.
    """
    severities = [severity_of(violation["kind"], rules, label) for violation in block["violations"]]
    if [violation["severity"] for violation in block["violations"]] != severities:
        raise FormatError("invariants: a violation carries another severity than the policy gives its kind")
    baseline, subject = block["baseline"], block["subject"]
    kinds = {violation["kind"] for violation in block["violations"]}
    if GROWN in kinds and (label is None or not has_grown(baseline["vocabulary"], subject["vocabulary"])):
        raise FormatError("invariants: the vocabulary is said to have grown, and its sizes do not say so")
    shared = subject.get("non_finite_shared", 0)
    if shared > min(baseline["non_finite"], subject["non_finite"]):
        raise FormatError("invariants: more values that are not finite are shared than there are")
    for what, differs, explained in (
        ("the count of non-finite values", subject["non_finite"] > shared, "non_finite" in kinds),
        ("the tied tensors", _tying(subject) != _tying(baseline), "tying" in kinds),
        ("the vocabulary sizes", subject["vocabulary"] != baseline["vocabulary"], bool(kinds & {"vocabulary", GROWN})),
        ("the tokenizers", subject.get("tokenizer") != baseline.get("tokenizer"), "tokenizer" in kinds),
        ("the digests of the structures", subject["sha256"] != baseline["sha256"], bool(kinds & _STRUCTURAL_KINDS)),
    ):
        if differs != explained:
            raise FormatError(f"invariants: the list of violations contradicts {what}")
    if subject["sha256"] == baseline["sha256"]:
        for count in ("tensors", "norm_modules"):
            if subject[count] != baseline[count]:
                raise FormatError(f"invariants: structures of one digest cannot differ in {count}")
    return {
        "evaluated": True,
        "status": status_of(severities),
        "fatal_violations": sum(severity == "fatal" for severity in severities),
        "warning_violations": sum(severity == "warning" for severity in severities),
    }


def _tying(facts: Mapping[str, Any]) -> tuple[set[tuple[str, ...]], bool]:
    return {tuple(group) for group in facts["tied"]}, facts["config_tied"]


Difference = tuple[str, Sequence[str], str]


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
    known = sorted(key for key in changed if key in COMPUTATION_KEYS)
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
    message = "the subject's own tokenizer splits differently; it was measured on the baseline's tokens"
    return [("tokenizer", ["tokenizer"], message)]


def _layout_violations(warnings: Sequence[str]) -> list[Difference]:
    """Say what could not be told of the baseline's structure: no difference, but what no guard looked at."""
    shown = [text[:_SENTENCE_LENGTH] for text in warnings]
    return [("layout", shown, "of the model's own structure something could not be told")] if shown else []


def _words(block: Block, _: Rules) -> Words:
    return f"fatal: {block['fatal_violations']}, warnings: {block['warning_violations']}", "no fatal violation"


def _structure(facts: JsonObject) -> JsonObject:
    """Return what is said of a structure wherever it is compared: a tokenizer only beside a loaded checkpoint's."""
    return {key: value for key, value in facts.items() if key != "tokenizer"}


INVARIANTS_GUARD = Guard(
    name="invariants",
    judges="structure, and that every value is finite",
    evidence=frozenset({"baseline", "subject", "violations", "tensors", "sublayers"}),
    derive=lambda block, rules, case: derive_invariants(block, rules, case.edit["type"] if case.loaded else None),
    gates=(
        Gate(
            "invariants_pass",
            lambda block: block["status"] != "fail",
            _words,
            title="structure",
        ),
    ),
    signal=INVARIANTS,
    warnings={"invariants": lambda block: block["status"] == "warn"},
    section="invariants",
    shared=Shared(
        model=lambda block: {
            "structure of the baseline": _structure(block["baseline"]),
            "what there is to judge": [block.get("tensors"), block.get("sublayers")],
        },
        edited=lambda block: {"structure of the edited model": block["subject"], "violations": block["violations"]},
    ),
    schema=SCHEMA,
)
