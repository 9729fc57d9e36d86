"""Text sources to token windows: what every model of a run is measured on, and the digests that pin it.

Documents are read, cleared of exact duplicates, tokenized and joined with an end-of-text token after each; the
stream is cut into windows of ``seq_len`` tokens that don't overlap, and a seeded permutation of them gives the
preview windows and then the final ones.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_proofpack.common.strict_json import parse_json, sha256_of
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.records import TextFacts, TextSpec, WindowPlan
from pytest_proofpack.plan.text_sources import PROVIDERS as DATASET_PROVIDERS
from pytest_proofpack.text.parquet import Sample, read_documents, split_files
from pytest_proofpack.text.synthetic import generate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = NDArray[np.int64]

MAX_TEXT_BYTES = 2 * 1024**3
"""Upper bound on a text; far more text than any certificate is measured on."""

WINDOW_ID_DIGITS = 32
"""Hexadecimal digits of a window's id: 128 bits of SHA-256, so two windows never share one by accident."""

_DOCUMENTS_PER_BATCH = 1024
_BYTE_ORDER_MARK = "\ufeff"
_ARTICLE = re.compile(r"^(?= ?= [^=\n].* = ?$)", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")

_PROBE = (
    "The quick brown fox can't jump; 3.14159 x 2,048 = ?\n\n\tdef f(x): return x**2  # CamelCase snake_case\n"
    "Ünïcödé naïve façade — “quoted” … 東京 Москва العربية हिन्दी 🙂 e\u0301 \u00a0 http://example.org/a?b=c&d=%20"
)
"""Text on which tokenizers that split differently are told apart: contractions, digits, runs of blanks, scripts."""
_PROBED_TOKENS = 8192
"""The probe is of no use where a small vocabulary has no merges for it, so a tokenizer's own tokens are split too."""


@dataclass(frozen=True)
class DrawnWindows:
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

    def draw(self, run: int) -> DrawnWindows:
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
    _require_windows(len(windows), plan, _name(spec))
    facts = TextFacts(
        provider=spec.provider,
        split=spec.split,
        documents=len(documents),
        text_sha256=text_sha256(documents),
        total_tokens=len(stream),
        available_windows=len(windows),
        source=_source(spec) if spec.provider in DATASET_PROVIDERS else None,
    )
    return PreparedText(facts, windows, plan)


def load_documents(spec: TextSpec) -> list[str]:
    """Return the documents of a text, without empty ones and exact duplicates, in the order of first appearance.

    ``synthetic`` generates them. ``local_jsonl`` reads one from the field ``spec.field`` of every line.
    ``local_text`` splits a file at its ``= Title =`` lines (the form of WikiText: one article, one document), or
    at blank lines where it has no such line, and strips blanks around each document; CRLF counts as LF.
    ``wikitext2`` joins the rows of the data set, which are lines, and splits the text as ``local_text`` does, so both
    have the same documents. ``hf_text`` takes every row of the data set as one document, or ``spec.documents`` rows
    drawn with ``spec.seed``.

    Raises:
        ConfigurationError: an unknown provider; a file that is missing, unreadable, too large, not UTF-8, holds a
            line that is not what it should be, or no text at all; a data set that is not on this machine, or see
            :mod:`pytest_proofpack.text.parquet`.
    """
    if spec.provider == "synthetic":
        documents: Iterable[str] = _synthetic_documents(spec)
    elif spec.provider == "local_text":
        documents = _split_text(_read_text(_text_file(spec)))
    elif spec.provider == "local_jsonl":
        documents = _jsonl_documents(_text_file(spec), spec.field)
    elif spec.provider == "wikitext2":
        documents = _split_text("".join(map(_wikitext_line, _dataset_texts(spec))))
    elif spec.provider == "hf_text":
        documents = _dataset_texts(spec)
    else:
        raise ConfigurationError(
            f"unknown text provider {spec.provider!r}. Use one of synthetic, local_text, local_jsonl, "
            f"{', '.join(DATASET_PROVIDERS)}."
        )
    unique = list(dict.fromkeys(document for document in documents if document.strip()))
    if not unique:
        raise ConfigurationError(f"{_name(spec)}: holds no text. Name a text with at least one document in it.")
    return unique


def text_sha256(documents: Sequence[str]) -> str:
    """Return the hexadecimal SHA-256 over all documents, each preceded by its length in bytes (64 bits, little-endian).

    The lengths make document boundaries count; the tokenizer plays no part.
    """
    digest = hashlib.sha256()
    for document in documents:
        raw = document.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def tokenize(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Return the token ids of all documents, the tokenizer's end-of-text token after each, shaped (total_tokens,).

    No other special token is added.

    Raises:
        ConfigurationError: the tokenizer has no end-of-text token.
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
        # verbose=False: a document may well be longer than the model's context; windows are cut afterwards.
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        pieces.extend(np.array([*ids, end], dtype=np.int64) for ids in encoded)
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


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


def draw_windows(windows: Tokens, plan: WindowPlan, run: int) -> DrawnWindows:
    """Draw the preview and the final windows of a run.

    Windows are permuted by ``numpy.random.default_rng(plan.seed + run)``: the first ``plan.preview`` are preview, the
    next ``plan.final`` final, so the two never share a window, and runs are draws of their own, not copies.

    Raises:
        ConfigurationError: there are fewer windows than the plan needs, or the plan is not usable.
    """
    _require_windows(len(windows), plan, "the text")
    seed = plan.seed + run
    if seed < 0:
        raise ConfigurationError(
            f"the seed of the windows, {plan.seed} + run {run}, is negative. Use a seed from 0 up."
        )
    order = np.random.default_rng(seed).permutation(len(windows))
    preview = windows[order[: plan.preview]]
    final = windows[order[plan.preview : plan.preview + plan.final]]
    return DrawnWindows(
        preview=preview,
        final=final,
        preview_ids=tuple(map(window_id, preview)),
        final_ids=tuple(map(window_id, final)),
        seed=seed,
    )


def window_id(tokens: Tokens) -> str:
    """Return a window's id: the first 32 hexadecimal digits of the SHA-256 of its token ids as little-endian int64."""
    return hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()[:WINDOW_ID_DIGITS]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hexadecimal SHA-256 of how a tokenizer behaves.

    Over the token ids of a fixed probe text and of the texts of thousands of its own tokens (of all, in a small
    vocabulary), the size of the vocabulary with added tokens, and the end-of-text id. Files would not do: the same
    files can load as tokenizers that split differently.
    """
    tokens = range(0, len(tokenizer), -(-len(tokenizer) // _PROBED_TOKENS) or 1)
    own = [tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in tokens]
    ids = tokenizer([_PROBE, *own], add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return sha256_of({"ids": list(map(list, ids)), "vocabulary": len(tokenizer), "end": tokenizer.eos_token_id})


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
            "Supply more text, or ask for fewer or shorter windows."
        )


def _name(spec: TextSpec) -> str:
    """Return how messages call a text."""
    if spec.dataset is not None:
        return f"the split {spec.split} of {spec.dataset}"
    return str(spec.path or f"the {spec.provider} text")


def _source(spec: TextSpec) -> dict[str, Any]:
    """Return what certificates record about the data set that a text is from."""
    source = {"dataset": spec.dataset, "config": spec.config, "revision": spec.revision, "field": spec.field}
    sample = {"documents": spec.documents, "seed": spec.seed}
    return {**source, "sample": sample} if spec.documents else source


def _dataset_texts(spec: TextSpec) -> Iterator[str]:
    """Yield the texts of a data set's rows."""
    if spec.path is None:
        raise ConfigurationError(
            f"{_name(spec)} is not on this machine. Fetch it first, or name a directory that holds it (text.path)."
        )
    _refuse_nul(spec.path)
    files = split_files(spec.path, spec.config, spec.split)
    sample = Sample(spec.documents, spec.seed) if spec.documents else None
    return read_documents(files, spec.field, max_bytes=MAX_TEXT_BYTES, sample=sample)


def _wikitext_line(row: str) -> str:
    """Return the line of WikiText's own file that a row stands for: the data set has its blank lines, " ", as ""."""
    line = row or " "
    return line if line.endswith("\n") else f"{line}\n"


def _refuse_nul(path: Path) -> None:
    if "\0" in str(path):
        raise ConfigurationError(f"{str(path)!r}: no path can hold the character NUL. Correct text.path.")


def _synthetic_documents(spec: TextSpec) -> Iterator[str]:
    return (document.text for document in generate(spec.seed, spec.documents, spec.split))


def _text_file(spec: TextSpec) -> Path:
    """Return the path of a local text, after the checks that need no reading."""
    path = spec.path
    if path is None:
        raise ConfigurationError(f"the text provider {spec.provider} needs the path of a file.")
    _refuse_nul(path)
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise ConfigurationError(f"{path}: {problem}. Name the file that holds the text.")
    if (size := path.stat().st_size) > MAX_TEXT_BYTES:
        raise ConfigurationError(
            f"{path}: {size} bytes, more than the {MAX_TEXT_BYTES} allowed. A few megabytes are enough: cut a part out."
        )
    return path


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path}: cannot be read ({error.strerror or error}). Make it readable, or name another.")


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}: line {line} is not UTF-8 ({error.reason} at byte {error.start}). Convert the file to UTF-8."
        ) from error


def _split_text(text: str) -> Iterator[str]:
    """Yield the stripped articles of a text in WikiText's form, or else its stripped paragraphs."""
    text = text.removeprefix(_BYTE_ORDER_MARK).replace("\r\n", "\n")
    boundary = _ARTICLE if _ARTICLE.search(text) else _BLANK_LINES
    return (document.strip() for document in boundary.split(text))


def _jsonl_documents(path: Path, field: str) -> Iterator[str]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _jsonl_document(line, field, f"{path}: line {number}")
    except OSError as error:
        raise _unreadable(path, error) from error


def _jsonl_document(line: bytes, field: str, source: str) -> str:
    try:
        record = parse_json(line, source)
    except FormatError as error:
        raise ConfigurationError(f"{error}. Every line must hold one JSON object.") from error
    text = record.get(field)
    if not isinstance(text, str):
        problem = f"the field {field!r} is no string" if field in record else f"there is no field {field!r}"
        raise ConfigurationError(f"{source}: {problem}. Every line must hold its text there; check the field's name.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{source}: the text holds half of a surrogate pair at character {error.start}. Write it as valid Unicode."
        ) from error
    return text
