"""Sizes that ``config.json`` names, held against the headers of the weights, before a module is built by them.

transformers builds what the configuration says and then looks for values: a billion layers end no session, they only
never come to be, and a billion rows take the machine's memory. A size that is off by little is loaded as it is, and the
invariants say what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.errors import ConfigurationError

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_SIZES = (
    "d_model", "ffn_dim", "head_dim", "hidden_size", "intermediate_size", "moe_intermediate_size", "n_embd", "n_head",
    "n_inner", "n_positions", "n_routed_experts", "num_attention_heads", "num_experts", "num_key_value_heads",
    "num_local_experts", "shared_expert_intermediate_size", "vocab_size",
)  # fmt: skip
_PACKED_TOGETHER = 16
"""Values of two bits, in a word of 32: no form packs more into one."""
_HARMLESS = 2**16
"""Up to here a size is let be: of a small model, a default may stand there that no module is built by."""


def require_fitting_sizes(files: CheckpointFiles) -> None:
    """Make sure that a configuration does not name more than the files could possibly hold.

    Every layer has a tensor, and every size is one of a tensor's, or counts tensors; packed, it is a part of that.

    Raises:
        ConfigurationError: it names more layers than there are tensors, or a size beyond all of theirs.
    """
    if not files.stored:
        return
    tensors = len(files.stored)
    largest = max((size for header in files.stored.values() for size in header.shape), default=0)
    most = dict.fromkeys(LAYER_COUNTS, tensors) | dict.fromkeys(
        _SIZES, max(largest * _PACKED_TOGETHER, tensors, _HARMLESS)
    )
    for config in (files.config, files.text_config):
        for key, limit in most.items():
            said = config.get(key)
            if type(said) is int and said > limit:
                held = f"{tensors} tensors" if key in LAYER_COUNTS else f"tensors of at most {largest} rows or columns"
                raise ConfigurationError(
                    f"{files.path}: config.json says {key} {said}, but its weight files hold {held}. They are not "
                    "those of this configuration; save or download the model again."
                )
