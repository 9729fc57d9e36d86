"""What a model takes: how many positions, and which token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_proofpack.errors import ConfigurationError

if TYPE_CHECKING:
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


class Vocabulary(Protocol):
    """What is asked of a tokenizer here."""

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

    def check_vocabulary(self, tokenizer: Vocabulary) -> None:
        """Make sure that the model has an embedding for every token; more rows than tokens are fine (padding).

        Raises:
            ConfigurationError: the tokenizer knows an id that the model does not.
        """
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if largest >= self.vocabulary:
            raise ConfigurationError(
                f"{self.name}: the tokenizer's largest id is {largest}, but the model's vocabulary has only "
                f"{self.vocabulary} entries. The tokenizer is not this model's; put the right one beside the weights."
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
    """Return what a configuration says."""
    own = config.get_text_config()
    positions = getattr(own, "max_position_embeddings", None)
    return ModelLimits(str(config.name_or_path), positions if isinstance(positions, int) else None, own.vocab_size)
