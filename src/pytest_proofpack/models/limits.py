"""What a model takes: how many positions, and which token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


def context_length(config: PreTrainedConfig) -> int | None:
    """Return how many positions a model takes; None if its configuration does not say so."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None


def vocabulary_size(config: PreTrainedConfig) -> int:
    """Return for how many token ids a model has an embedding."""
    size: int = config.get_text_config().vocab_size
    return size


def check_context(config: PreTrainedConfig, seq_len: int) -> None:
    """Make sure that windows of ``seq_len`` tokens fit the model's context.

    Raises:
        ConfigurationError: they are longer than the positions that the model has.
    """
    limit = context_length(config)
    if limit is not None and seq_len > limit:
        raise ConfigurationError(
            f"{config.name_or_path}: windows of {seq_len} tokens do not fit its context of {limit}. "
            "Use a smaller seq_len."
        )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Make sure that the model has an embedding for every token; more rows than tokens are fine (padding).

    Raises:
        ConfigurationError: the tokenizer knows an id that the model does not.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    largest, rows = max(vocabulary.values(), default=-1), vocabulary_size(config)
    if largest >= rows:
        raise ConfigurationError(
            f"{config.name_or_path}: the tokenizer's largest id is {largest}, but the model's vocabulary has only "
            f"{rows} entries. The tokenizer is not this model's; put the right one beside the weights."
        )
