"""How a model is computed, where that is not part of the model: one way for all, whatever a config.json asks for.

Keys of a configuration choose among implementations of the same function: attention by scaled_dot_product_attention, in
single steps or by a package, experts one by one or grouped. They are of whoever saved the file, an edited checkpoint
has others than its baseline, and models of equal weights would differ by rounding. So they are put aside, and
transformers' own rule holds: scaled_dot_product_attention, and single steps (``eager``) for classes that have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from transformers import PreTrainedConfig, PreTrainedModel

_CODE_PATHS: Mapping[str, object] = {
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "chunk_size_feed_forward": 0,
    "slow_but_exact": False,
    "use_mambapy": False,
    "use_flash_attn": False,
    "chunkwise_kernel": "chunkwise--native_autograd",
    "sequence_kernel": "native_sequence__native",
    "step_kernel": "native",
}
"""Keys that say how, and not what, a model computes, with the value that every model gets: what transformers does
without any further package. What is loaded as which number format, and what is trained how, is not among them."""


def take_the_usual_path(config: PreTrainedConfig) -> None:
    """Put aside what a configuration, and those within it, say of implementations; before the model is made."""
    for own in _configurations(config):
        for key, value in _CODE_PATHS.items():
            if getattr(own, key, value) != value:
                setattr(own, key, value)
        # Those within it one by one: a composite configuration hands these two on only to those that it knows of.
        own._attn_implementation = None
        own._experts_implementation = None


def attention_of(model: PreTrainedModel) -> str:
    """Return the implementation of attention that a model was made with, as transformers names it."""
    return str(model.config.get_text_config()._attn_implementation)


def _configurations(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PreTrainedConfig):
            yield from _configurations(value)
