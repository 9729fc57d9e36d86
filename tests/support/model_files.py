"""Saved model directories with a real tokenizer, for tests that start from files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_proofpack.text.synthetic import generate
from tests.support.small_models import small_model

TOKENS = 384
"""Size of the tokenizer's vocabulary: all bytes, the merges of some synthetic text, one end-of-text token."""
END = "<|end|>"


def small_tokenizer(*, end: str | None = END) -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer; with ``end=None`` it has no end-of-text token."""
    backend = Tokenizer.from_str(_trained())
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, model_max_length=64)  # type: ignore[no-untyped-call]


def build_model_directory(
    path: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "5GB",
    taught: bool | str = False,
    **overrides: object,
) -> Path:
    """Save a tiny model and its tokenizer as a user would; return ``path``.

    Args:
        path: the directory to make.
        architecture: see :func:`tests.support.small_models.small_model`.
        seed: of the random weights.
        dtype: of the weights.
        shard_size: largest size of one safetensors file; "40KB" gives several and an index.
        taught: whether it has learned enough of the synthetic text, or of a text, to pass as a baseline; see
            :func:`teach`.
        overrides: configuration values, for example ``vocab_size``, which is :data:`TOKENS` unless told.
    """
    model = small_model(architecture, seed=seed, dtype=dtype, **{"vocab_size": TOKENS, **overrides})
    if taught:
        teach(model, taught if isinstance(taught, str) else _synthetic())
    model.save_pretrained(path, max_shard_size=shard_size)
    small_tokenizer().save_pretrained(path)
    return path


def teach(model: PreTrainedModel, text: str) -> None:
    """Train a model for some seconds: it then predicts such a text better than counting its tokens would.

    Random weights guess, so certificates of them do not pass. Of the synthetic text it gets to a perplexity of 40 or
    so, where counting gives 100.
    """
    tokens = torch.tensor(small_tokenizer()(text, verbose=False)["input_ids"])
    draws = torch.Generator().manual_seed(0)
    model.train()
    for rate in (1e-2, 5e-3):
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(60):
            starts = torch.randint(len(tokens) - 32, (32,), generator=draws).tolist()
            batch = torch.stack([tokens[start : start + 32] for start in starts])
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.train(False)


def story(words: Sequence[str], *, length: int = 20_000) -> str:
    """Return a text of so many words, drawn at random."""
    chance = Random(7)
    return " ".join(chance.choice(words) for _ in range(length))


def _synthetic() -> str:
    return "\n\n".join(document.text for document in generate(0, 300, "training"))


@lru_cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([document.text for document in generate(0, 20, "training")], trainer)
    return str(tokenizer.to_str())
