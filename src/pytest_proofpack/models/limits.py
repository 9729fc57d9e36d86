"""What a model takes: how many positions, and which token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_proofpack.common.words import first_of
from pytest_proofpack.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig

    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.plan.records import ModelSpec

_POSITIONS = {
    "gpt2": "n_positions",
    "gpt_neox": "max_position_embeddings",
    "llama": "max_position_embeddings",
    "mistral": "max_position_embeddings",
    "mixtral": "max_position_embeddings",
    "qwen2": "max_position_embeddings",
    "qwen3": "max_position_embeddings",
}
"""By type of model, the key of config.json that says how many positions it has, where transformers reads just that."""

_CONTEXT_NAMES = (
    "max_position_embeddings", "n_positions", "max_seq_len", "model_max_length", "context_length",
    "max_target_positions", "max_sequence_length", "max_seq_length", "seq_length", "seq_len", "n_ctx", "ctx_len",
)  # fmt: skip
"""What configurations call the length of the context. The first comes first: transformers maps other names to it
(``attribute_map``), and older files hold others beside it that nobody reads (``n_ctx``). The last ones are those of
models that bring code of their own."""

_AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)
"""Types of models that count positions from the padding token's id + 1: so many fewer than their table has rows."""

_NOT_ITS_OWN = "The tokenizer is not this model's; put the right one beside the weights."
_OF_BASELINE = (
    "The baseline's tokenizer makes the windows, so rows of the subject's vocabulary were lost, or it is no edit of "
    "this baseline. Keep all rows, or name the model that it was made of."
)
_SHOWN = 4
_TOKEN_LENGTH = 40


class Vocabulary(Protocol):
    """What is asked of a tokenizer here."""

    eos_token_id: int | None

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""


@dataclass(frozen=True)
class ModelLimits:
    """What a model takes.

    Attributes:
        name: the model's directory, for messages.
        positions: the longest window; None if the configuration does not say so.
        vocabulary: for how many token ids it has an embedding.
    """

    name: str
    positions: int | None
    vocabulary: int

    def check_context(self, seq_len: int) -> None:
        """Make sure that windows of ``seq_len`` tokens fit the model's context.

        Raises:
            ConfigurationError: they are longer than the positions that the model has.
        """
        if self.positions is not None and seq_len > self.positions:
            raise ConfigurationError(
                f"{self.name}: windows of {seq_len} tokens do not fit its context of {self.positions}. "
                "Use a smaller seq_len."
            )

    def check_vocabulary(self, tokenizer: Vocabulary) -> tuple[str, ...]:
        """Look for tokens that the model has no embedding for; more rows than tokens are fine (padding).

        A token that was added for padding, say, does no harm as long as no text makes it: see :meth:`check_windows`.

        Returns:
            A warning that names them; nothing if there are none.

        Raises:
            ConfigurationError: the end-of-text token, which ends every document, is among them.
        """
        beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= self.vocabulary)
        if not beyond:
            return ()
        rows = f"the model's vocabulary has only {self.vocabulary} entries"
        if tokenizer.eos_token_id is not None and tokenizer.eos_token_id >= self.vocabulary:
            raise ConfigurationError(
                f"{self.name}: the tokenizer's end-of-text token has the id {tokenizer.eos_token_id}, but {rows}. "
                f"{_NOT_ITS_OWN}"
            )
        names = first_of([f"{token[:_TOKEN_LENGTH]!r} ({number})" for number, token in beyond], _SHOWN)
        return (f"the tokenizer has tokens that the model has no embedding for: {names}; {rows}.",)

    def check_windows(self, windows: NDArray[np.int64], tokenizer: Vocabulary, *, edited: bool = False) -> None:
        """Make sure that the model has an embedding for every token of some windows.

        Args:
            windows: token ids.
            tokenizer: what made them.
            edited: whether that is not this model's own tokenizer but the one of its baseline.

        Raises:
            ConfigurationError: a token of the text has an id that the model does not know.
        """
        largest = int(windows.max(initial=-1))
        if largest >= self.vocabulary:
            token = next((token for token, number in tokenizer.get_vocab().items() if number == largest), "")
            raise ConfigurationError(
                f"{self.name}: the text holds the token {token[:_TOKEN_LENGTH]!r} with the id {largest}, but the "
                f"model's vocabulary has only {self.vocabulary} entries. {_OF_BASELINE if edited else _NOT_ITS_OWN}"
            )


def read_limits(spec: ModelSpec, files: CheckpointFiles) -> ModelLimits:
    """Return what a model takes: from config.json, or where only transformers can tell, as transformers reads it.

    The first way loads no torch. It is for types of models whose configuration transformers is known to take as it
    stands there; a key that is missing has a default that only transformers knows.

    Raises:
        ConfigurationError: the configuration cannot be read, or its architecture is unknown to transformers.
    """
    config = files.config
    key = _POSITIONS.get(str(config.get("model_type")))
    positions, vocabulary = config.get(key) if key is not None else None, config.get("vocab_size")
    if {"auto_map", "text_config"} & config.keys():
        positions = None
    if isinstance(positions, int) and isinstance(vocabulary, int) and min(positions, vocabulary) > 0:
        return ModelLimits(str(files.path), positions, vocabulary)
    from pytest_proofpack.models.load import load_config

    return limits_of(load_config(spec))


def limits_of(config: PreTrainedConfig) -> ModelLimits:
    """Return what a configuration says.

    Raises:
        ConfigurationError: it says nothing of a vocabulary: of the model's own or, if it has one, of its part for text.
    """
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    if type(vocabulary) is not int or vocabulary < 1:
        raise ConfigurationError(
            f"{config.name_or_path}: its config.json gives no vocab_size from 1 up (a text_config has to be one that "
            f"a {config.model_type} has). Check the file."
        )
    return ModelLimits(str(config.name_or_path), context_length(config), vocabulary)


def context_length(config: PreTrainedConfig) -> int | None:
    """Return how many positions a model takes, under whatever name its configuration says so.

    Returns:
        None if it says nothing: a recurrent model, or one whose attention is biased by distance, takes any length.
    """
    own = config.get_text_config()
    found = (getattr(own, name, None) for name in _CONTEXT_NAMES)
    positions = next((value for value in found if type(value) is int and value > 0), None)
    if positions is not None and own.model_type in _AFTER_PADDING:
        padding = own.pad_token_id
        return positions - (padding if isinstance(padding, int) else 0) - 1
    return positions
