"""The baseline-quality guard: does the unedited model know this text at all?

Every other number compares the subject with its baseline. Where the baseline predicts nothing (a broken checkpoint, a
text in another language, somebody else's tokenizer), such a comparison means nothing either: whatever is done to a
model that guesses leaves it guessing. So the baseline is held against a model that only counts tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import Block, Case, Gate, Guard, Rules, Shared, Words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLUMNS = ("occurrences", "tokens")
_MOST_ENTRIES = 100_000


def baseline_evidence(windows: NDArray[np.int64]) -> JsonObject:
    """Return how often the scored tokens of some windows occur: counts of counts, which is all that entropy needs.

    Args:
        windows: token ids, shape (windows, seq_len); the first token of each is not scored.

    Returns:
        ``occurrences``, ascending, and ``tokens``: how many different tokens occur so often.
    """
    import numpy as np  # who only lists the guards, goes without

    per_token = np.bincount(windows[:, 1:].ravel())
    occurrences, tokens = np.unique(per_token[per_token > 0], return_counts=True)
    return {"occurrences": occurrences.tolist(), "tokens": tokens.tolist()}


def derive_baseline_quality(evidence: Mapping[str, Any], rules: Mapping[str, Any], case: Case) -> JsonObject:
    """Compare the baseline's perplexity on the final windows with a unigram model's, and with the vocabulary's size.

    The unigram model is the best there can be: it has the frequencies of these very tokens, so its loss is their
    entropy, -sum (c/N) ln(c/N) in nats per token, c being how often a token occurs among the N that are scored.

    Args:
        evidence: of :func:`baseline_evidence`.
        rules: the policy section ``baseline_quality``.
        case: the windows, and the certificate's own blocks on the text and the baseline's vocabulary.

    Raises:
        FormatError: the evidence is not what :func:`baseline_evidence` writes, or of other windows.
    """
    occurrences, tokens = _columns(evidence)
    counts = case.final.counts
    total = sum(counts)
    if sum(occurrence * number for occurrence, number in zip(occurrences, tokens, strict=True)) != total:
        raise FormatError("baseline_quality: its tokens are not as many as the final windows score")
    vocabulary = min(case.vocabulary[place] for place in ("config", "tokenizer"))
    if sum(tokens) > vocabulary:
        raise FormatError("baseline_quality: more different tokens than the vocabulary has")
    shares = [(occurrence / total, number) for occurrence, number in zip(occurrences, tokens, strict=True)]
    unigram = math.exp(-math.fsum(number * share * math.log(share) for share, number in shares))
    loss = math.fsum(own * count for own, count in zip(case.final.baseline, counts, strict=True)) / total
    perplexity = math.exp(loss)
    size = case.text
    return {
        "evaluated": True,
        "perplexity": perplexity,
        "bits_per_byte": loss / math.log(2) * size["total_tokens"] / size["total_bytes"],
        "unigram_perplexity": unigram,
        "vocabulary": vocabulary,
        "acceptable": perplexity <= rules["unigram_ratio_max"] * unigram
        and perplexity <= rules["vocabulary_share_max"] * vocabulary,
        "weak": perplexity > rules["unigram_ratio_warn"] * unigram,
    }


def _columns(evidence: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[int]]:
    occurrences, tokens = (_counts(evidence.get(name), name) for name in _COLUMNS)
    if len(occurrences) != len(tokens) or any(low >= high for low, high in itertools.pairwise(occurrences)):
        raise FormatError("baseline_quality.occurrences: expected ascending numbers, as many as there are tokens")
    return occurrences, tokens


def _counts(column: object, name: str) -> Sequence[int]:
    if not isinstance(column, list) or not 0 < len(column) <= _MOST_ENTRIES:
        raise FormatError(f"baseline_quality.{name}: expected a list of counts")
    if not all(type(count) is int and 0 < count < 2**53 for count in column):
        raise FormatError(f"baseline_quality.{name}: expected whole numbers from 1 up")
    return column


def _words(block: Block, rules: Rules) -> Words:
    measured = (
        f"baseline's perplexity {words.number(block['perplexity'])}, {words.number(block['bits_per_byte'])} bits per "
        f"byte; counting tokens alone gives {words.number(block['unigram_perplexity'])}"
    )
    share = rules["vocabulary_share_max"] * block["vocabulary"]
    demanded = (
        f"at most {words.limit(rules['unigram_ratio_max'])} times the perplexity of counting tokens (a warning above "
        f"{words.limit(rules['unigram_ratio_warn'])}), and at most {words.number(share)}, which is "
        f"{words.limit(rules['vocabulary_share_max'])} times the size of the vocabulary"
    )
    return measured, demanded


def _used(block: Block, rules: Rules) -> float:
    """Return the larger share: of the perplexity that counting tokens has, or of the vocabulary's."""
    counting = rules["unigram_ratio_max"] * block["unigram_perplexity"]
    guessing = rules["vocabulary_share_max"] * block["vocabulary"]
    return float(max(block["perplexity"] / counting, block["perplexity"] / guessing))


_COUNTS: JsonObject = {"type": "array", "minItems": 1, "maxItems": _MOST_ENTRIES}

BASELINE_QUALITY_GUARD = Guard(
    name="baseline_quality",
    judges="whether the baseline knows the text at all",
    evidence=frozenset(_COLUMNS),
    derive=derive_baseline_quality,
    gates=(
        Gate(
            "baseline_acceptable",
            lambda block: block["acceptable"],
            _words,
            title="quality of the baseline",
            used=_used,
        ),
    ),
    warnings={"baseline_quality": lambda block: block["weak"] and block["acceptable"]},
    section="baseline_quality",
    shared=Shared(sample=lambda block: {"counts of tokens": [block[column] for column in _COLUMNS]}),
    tightens={"unigram_ratio_max": "max", "unigram_ratio_warn": "max", "vocabulary_share_max": "max"},
    schema={
        "type": "object",
        "required": [*_COLUMNS, "evaluated", "perplexity", "bits_per_byte", "unigram_perplexity"],
        "properties": {
            **dict.fromkeys(_COLUMNS, _COUNTS),
            **{key: {"type": "number"} for key in ("perplexity", "bits_per_byte", "unigram_perplexity")},
        },
        "additionalProperties": True,
    },
)
