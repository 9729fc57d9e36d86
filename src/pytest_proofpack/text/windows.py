"""Documents to token windows, and the ids that pin them.

Documents are tokenized and joined with an end-of-text token after each; the stream is cut into windows of ``seq_len``
tokens that don't overlap, and a seeded permutation of them gives the preview windows and then the final ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_proofpack.common.strict_json import sha256_of
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import TextFacts, TextSpec, WindowPlan
from pytest_proofpack.text.documents import load_documents, recorded_source, text_sha256
from pytest_proofpack.text.local_files import text_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = NDArray[np.int64]

WINDOW_ID_DIGITS = 32
"""Hexadecimal digits of a window's id: 128 bits of SHA-256, so two windows never share one by accident."""

_DOCUMENTS_PER_BATCH = 1024

PROBE = (
    "The quick brown fox can't jump; 3.14159 x 2,048 = ?\n\n\tdef f(x): return x**2  # CamelCase snake_case\n"
    "Ünïcödé naïve façade — “quoted” … 東京 Москва العربية हिन्दी 🙂 e\u0301 \u00a0 http://example.org/a?b=c&d=%20"
)
"""Text on which tokenizers that split differently are told apart: contractions, digits, runs of blanks, scripts."""
PROBED_TOKENS = 8192
"""The probe is of no use where a small vocabulary has no merges for it, so a tokenizer's own tokens are split too."""


@dataclass(frozen=True)
class SampledWindows:
    """The windows of one run.

    Attributes:
        preview, final: token ids, shaped (windows, seq_len).
        preview_ids, final_ids: the windows' ids, see :func:`window_id`.
        seed: the seed of the permutation, the plan's seed plus the run.
    """

    preview: Tokens
    final: Tokens
    preview_ids: tuple[str, ...]
    final_ids: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class PreparedText:
    """One text under one tokenizer, ready to draw windows from.

    Attributes:
        facts: what certificates record about the text.
        windows: every distinct window of the text, shaped (available_windows, seq_len).
        plan: how windows are cut and drawn.
    """

    facts: TextFacts
    windows: Tokens
    plan: WindowPlan

    def draw(self, run: int) -> SampledWindows:
        """Return the windows of run ``run``; see :func:`draw_windows`."""
        return draw_windows(self.windows, self.plan, run)


def prepare_text(spec: TextSpec, tokenizer: PreTrainedTokenizerBase, plan: WindowPlan) -> PreparedText:
    """Load and tokenize a text, and make sure that it holds enough windows for the plan.

    Raises:
        ConfigurationError: the text can't be read (:func:`load_documents`) or is too short for the plan.
    """
    documents = load_documents(spec)
    stream = tokenize(documents, tokenizer)
    windows = cut_windows(stream, plan.seq_len)
    _require_windows(len(windows), plan, text_name(spec))
    facts = text_facts(
        *(spec, windows),
        documents=len(documents),
        text_sha256=text_sha256(documents),
        total_tokens=len(stream),
        total_bytes=sum(len(document.encode()) for document in documents),
    )
    return PreparedText(facts, windows, plan)


def text_facts(
    spec: TextSpec, windows: Tokens, *, documents: int, text_sha256: str, total_tokens: int, total_bytes: int
) -> TextFacts:
    """Return what certificates record about a text, of which so much was counted and these windows were cut."""
    return TextFacts(
        provider=spec.provider,
        split=spec.split,
        documents=documents,
        text_sha256=text_sha256,
        total_tokens=total_tokens,
        total_bytes=total_bytes,
        available_windows=len(windows),
        source=recorded_source(spec),
        options=dict(spec.options),
    )


def tokenize(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Return the token ids of all documents, the tokenizer's end-of-text token after each, shaped (total_tokens,).

    No other special token is added, and none is read out of a document: what looks like one there is text.

    Raises:
        ConfigurationError: the tokenizer has no end-of-text token, or cannot split a document.
    """
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ConfigurationError(
            f"the tokenizer of {tokenizer.name_or_path} has no end-of-text token to separate documents with. "
            "Set eos_token in its tokenizer_config.json."
        )
    pieces: list[Tokens] = []
    for start in range(0, len(documents), _DOCUMENTS_PER_BATCH):
        batch = list(documents[start : start + _DOCUMENTS_PER_BATCH])
        encoded = _split(tokenizer, batch)
        pieces.extend(np.array([*ids, end], dtype=np.int64) for ids in encoded)
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def _split(tokenizer: PreTrainedTokenizerBase, documents: list[str]) -> list[list[int]]:
    """Return the token ids of every document."""
    try:
        # verbose=False: a document may well be longer than the model's context; windows are cut afterwards.
        encoded: list[list[int]] = tokenizer(
            documents, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, by pyo3: no Exception, and of no class to be imported
            raise
        raise ConfigurationError(
            f"the tokenizer of {tokenizer.name_or_path} cannot split a document of the text ({error}). Put the "
            "tokenizer that the model was trained with beside the weights, or give another text."
        ) from error
    return encoded


def cut_windows(stream: Tokens, seq_len: int) -> Tokens:
    """Cut a token stream into its distinct windows, in the order of first appearance, shaped (windows, seq_len).

    Windows start at multiples of ``seq_len``; an incomplete one at the end is left out. A window that repeats an
    earlier one token for token is dropped: it would be no evidence of its own.

    Raises:
        ConfigurationError: ``seq_len`` is below 2, so that nothing could be scored.
    """
    if seq_len < 2:
        raise ConfigurationError(f"windows of {seq_len} tokens: not usable. seq_len must be at least 2.")
    count = len(stream) // seq_len
    windows = stream[: count * seq_len].reshape(count, seq_len)
    if count == 0:
        return windows
    _, first = np.unique(windows, axis=0, return_index=True)
    distinct: Tokens = windows[np.sort(first)]
    return distinct


def draw_windows(windows: Tokens, plan: WindowPlan, run: int) -> SampledWindows:
    """Draw the preview and the final windows of a run.

    Windows are permuted by ``numpy.random.default_rng(plan.seed + run)``: the first ``plan.preview`` are preview, the
    next ``plan.final`` final, so the two never share a window, and runs are draws of their own, not copies.

    Raises:
        ConfigurationError: there are fewer windows than the plan needs, or the plan is not usable.
    """
    _require_windows(len(windows), plan, "the text")
    order = draw_order(len(windows), plan, run)
    preview = windows[order[: plan.preview]]
    final = windows[order[plan.preview : plan.preview + plan.final]]
    return sampled(preview, final, plan.seed + run)


def draw_order(count: int, plan: WindowPlan, run: int) -> NDArray[np.int64]:
    """Return the order in which run ``run`` draws of ``count`` windows, shape (count,).

    Raises:
        ConfigurationError: the seed is negative.
    """
    seed = plan.seed + run
    if seed < 0:
        raise ConfigurationError(
            f"the seed of the windows, {plan.seed} + run {run}, is negative. Use a seed from 0 up."
        )
    return np.random.default_rng(seed).permutation(count)


def sampled(preview: Tokens, final: Tokens, seed: int) -> SampledWindows:
    """Return preview and final windows with their ids."""
    return SampledWindows(preview, final, tuple(map(window_id, preview)), tuple(map(window_id, final)), seed)


def window_id(tokens: Tokens) -> str:
    """Return a window's id: the first 32 hexadecimal digits of the SHA-256 of its token ids as little-endian int64."""
    return hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()[:WINDOW_ID_DIGITS]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hexadecimal SHA-256 of how a tokenizer behaves.

    Over the id of every token, the token ids of a fixed probe text and of the texts of thousands of its own tokens (of
    all, in a small vocabulary), the size of the vocabulary with added tokens, and the end-of-text id. Files would not
    do: the same files can load as tokenizers that split differently.
    """
    tokens = range(0, len(tokenizer), -(-len(tokenizer) // PROBED_TOKENS) or 1)
    own = [tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in tokens]
    ids = tokenizer([PROBE, *own], add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    behaviour = {"ids": list(map(list, ids)), "vocabulary": len(tokenizer), "end": tokenizer.eos_token_id}
    return sha256_of({**behaviour, "tokens": _vocabulary_digest(tokenizer.get_vocab())})


def _vocabulary_digest(vocabulary: Mapping[str, int]) -> str:
    """Return a hexadecimal SHA-256 of which token has which id.

    What a tokenizer splits the texts of its own tokens into says nothing of it: renumbered, they give the new ids. Over
    ids and lengths as little-endian int64 and all tokens in one, by id: of 150,000 tokens a tenth of the time of JSON.
    """
    ids = np.fromiter(vocabulary.values(), dtype="<i8", count=len(vocabulary))
    order = np.argsort(ids)
    tokens = list(map(str, vocabulary))  # a class of a model's own may have bytes for tokens
    by_id = [tokens[index] for index in order]
    if len(np.unique(ids)) < len(ids):
        by_id = [token for _, token in sorted(zip(ids[order].tolist(), by_id, strict=True))]
    lengths = np.fromiter(map(len, by_id), dtype="<i8", count=len(by_id))
    text = "".join(by_id).encode("utf-8", "surrogatepass")
    return hashlib.sha256(b"".join((ids[order].tobytes(), lengths.tobytes(), text))).hexdigest()


def _require_windows(available: int, plan: WindowPlan, source: str) -> None:
    """Make sure that there are as many windows as the plan needs."""
    if plan.preview < 1 or plan.final < 1:
        raise ConfigurationError(
            f"{plan.preview} preview and {plan.final} final windows: not usable. There must be at least one of each."
        )
    needed = plan.preview + plan.final
    if available < needed:
        raise ConfigurationError(
            f"{source} is too short: it holds {available} different windows of {plan.seq_len} tokens, but "
            f"{plan.preview} preview + {plan.final} final = {needed} ({needed * plan.seq_len} tokens) are needed. "
            "Supply more text."
        )
