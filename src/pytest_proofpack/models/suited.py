"""Which models can be certified at all, as far as config.json tells: decoders, which continue a text to the right.

Everything else about a model's structure is found by running it (:mod:`pytest_proofpack.models.layout`). This is read
before anything is loaded, so that a session that cannot end well does not begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_proofpack.errors import ConfigurationError

_NO_DECODERS = {
    "blt": "runs three stacks of blocks over patches of bytes, and certificates know one stack over tokens",
    "cpmant": "sees later tokens where it predicts, so it has no perplexity",
    "gemma4_assistant": "only drafts for another model, whose hidden states it reads",
    "gemma4_unified_assistant": "only drafts for another model, whose hidden states it reads",
    "hrm_text": "runs two stacks of blocks in turns, and certificates know one",
    "musicgen": "predicts codes of sound, several at a time, and no text",
    "musicgen_melody": "predicts codes of sound, several at a time, and no text",
    "prophetnet": "predicts several tokens at a time, and does not run on token ids alone",
    "xlm": "keeps attention and feed-forward layers in separate lists, so it has no blocks",
    "xlnet": "sees later tokens where it predicts, so it has no perplexity",
}
"""By type of model, in transformers' own words, why it is refused."""


def require_suited(name: str, config: Mapping[str, Any]) -> None:
    """Make sure that a model is a decoder.

    Args:
        name: the model's, for messages.
        config: its config.json.

    Raises:
        ConfigurationError: it is an encoder-decoder, or of a type that predicts otherwise.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in _NO_DECODERS:
        raise ConfigurationError(f"{name} cannot be certified: a model of type {kind} {_NO_DECODERS[kind]}.")
    classes = config.get("architectures")
    alone = isinstance(classes, list) and any(str(own).endswith(("ForCausalLM", "LMHeadModel")) for own in classes)
    if config.get("is_encoder_decoder") is True and not alone:
        raise ConfigurationError(
            f"{name} cannot be certified: it is an encoder-decoder, whose perplexity depends on a source text that "
            "windows do not have; only its decoder saved by itself can."
        )


def stated(config: object, key: str) -> Any:
    """Return what a configuration of transformers says under a key; None where it says nothing.

    Configurations whose layers differ refuse to name one value for all.
    """
    try:
        return getattr(config, key, None)
    except RuntimeError:
        return None
