"""A vocabulary that only grew: rows were added to embedding and head, and those of the baseline are still there.

Who adds tokens for a chat, or pads the table to a multiple of 64, changes three things at once: the shapes of two
tables, the sizes of the vocabulary, and one key of the configuration. That is one finding. Common rows are compared
like any other weights. Whether it is a warning depends on what the edit is called: fine-tuning adds tokens; quantizing
and pruning do not, so that there it says that the edit is not what its label says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

GROWN = "vocabulary_grown"
"""The kind of violation."""
CONFIG_KEY = "vocab_size"
"""The key of the configuration that changes with it."""
TABLES = ("embed", "head")
"""Families of the parameters whose rows are tokens."""
_PLACES = ("embedding", "head")

_WORD = re.compile(r"auto-round|[a-z0-9]+")
_OF_WEIGHTS_ALONE = frozenset(
    {
        "auto-round", "autoround", "awq", "bitnet", "bnb", "cast", "compressed", "eetq", "fbgemm", "gguf", "gptq",
        "higgs", "hqq",
        "lowrank", "magnitude", "noop", "prune", "pruned", "pruning", "quant", "quantize", "quantized", "quanto",
        "quark", "rtn", "smoothquant", "sparse", "sparsegpt", "svd", "torchao", "vptq", "wanda",
    }
)  # fmt: skip
_OF_BITS = re.compile(r"(?:u?int|i?q|nf|b?f|fp|mxfp|nvfp|w)[0-9]+[a-z0-9]*")


def keeps_vocabulary(label: str) -> bool:
    """Tell whether a label says that only the values of weights changed: quantized, pruned, cast, of low rank.

    A label of one's own, ``custom``, and those of adapters and merges say nothing of the vocabulary.
    """
    words = _WORD.findall(label.lower())
    return any(word in _OF_WEIGHTS_ALONE or _OF_BITS.fullmatch(word) for word in words)


def has_grown(baseline: Mapping[str, int], subject: Mapping[str, int]) -> bool:
    """Tell whether sizes of a vocabulary, by place, are those of one that only grew."""
    if baseline.keys() != subject.keys() or any(subject[place] < size for place, size in baseline.items()):
        return False
    return any(subject[place] > baseline[place] for place in _PLACES if place in baseline)


def rows_added(before: Sequence[int], after: Sequence[int]) -> bool:
    """Tell whether a shape is another one with more rows."""
    return len(before) == len(after) > 0 and after[0] > before[0] and list(before[1:]) == list(after[1:])


def is_table(before: Sequence[int], after: Sequence[int], sizes: tuple[Mapping[str, int], Mapping[str, int]]) -> bool:
    """Tell whether a tensor grew with the vocabulary: its rows are as many as a place has, before and after.

    Args:
        before: the baseline's shape.
        after: the subject's.
        sizes: of the vocabulary by place, the baseline's and the subject's.
    """
    pairs = {(sizes[0].get(place), sizes[1].get(place)) for place in _PLACES}
    return rows_added(before, after) and (before[0], after[0]) in pairs


def explained_by_growth(violations: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a certificate's violations say that the vocabulary grew, and of no other shape that differs."""
    kinds = {violation["kind"] for violation in violations}
    return GROWN in kinds and "shape" not in kinds
