"""Fused query-key-value matrices: how one matrix holds the three, told by what disturbing a part of it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_proofpack.models import probing
from pytest_proofpack.models.probing import PROBE_ERRORS, Call
from pytest_proofpack.models.suited import stated


@dataclass(frozen=True)
class QkvPacking:
    """How one matrix holds queries, keys and values.

    Attributes:
        heads, kv_heads, head_dim: ``(heads + 2 kv_heads) head_dim`` output features in all.
        interleaved: False: all queries, then all keys, then all values. True: for one key-value head after the
            other, its query heads, its key and its value.
    """

    heads: int
    kv_heads: int
    head_dim: int
    interleaved: bool

    def query_key_features(self) -> torch.Tensor:
        """Return the indices of the output features that are queries or keys, ascending."""
        features = torch.arange((self.heads + 2 * self.kv_heads) * self.head_dim)
        if not self.interleaved:
            return features[: -self.kv_heads * self.head_dim]
        return features.view(self.kv_heads, -1, self.head_dim)[:, :-1].flatten()

    def value_features(self) -> torch.Tensor:
        """Return the indices of the output features that are values, ascending."""
        features = torch.arange((self.heads + 2 * self.kv_heads) * self.head_dim)
        return features[~torch.isin(features, self.query_key_features())]


def fused_qkv(model: PreTrainedModel, name: str, call: Call) -> Iterator[tuple[str, QkvPacking]]:
    """Yield the fused query-key-value matrices of an attention module, with the packing that its behaviour confirms.

    Args:
        model: the model.
        name: the attention module's path.
        call: a recorded call of it.
    """
    for inner, module in call.module.named_modules(prefix=name):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim != 2 or isinstance(module, nn.Embedding):
            continue
        outputs = weight.shape[1] if isinstance(module, Conv1D) else weight.shape[0]
        for packing in _possible_packings(model, outputs):
            if _is_confirmed(packing, call, module):
                yield f"{inner}.weight", packing
                break


def _possible_packings(model: PreTrainedModel, outputs: int) -> Iterator[QkvPacking]:
    """Yield the packings that have ``outputs`` features, by the head counts of the configuration."""
    config = model.config.get_text_config()
    heads = stated(config, "num_attention_heads")
    if not isinstance(heads, int):
        return
    head_dim = stated(config, "head_dim") or config.hidden_size // heads
    counts = [stated(config, key) for key in ("num_key_value_heads", "num_kv_heads")]
    for kv_heads in dict.fromkeys((*(count for count in counts if count), heads, 1)):
        if (heads + 2 * kv_heads) * head_dim == outputs:
            yield QkvPacking(heads, kv_heads, head_dim, interleaved=False)
            yield QkvPacking(heads, kv_heads, head_dim, interleaved=True)


def _is_confirmed(packing: QkvPacking, call: Call, projection: nn.Module) -> bool:
    """Tell whether at position 0 what should be values matters, and what should be queries and keys does not.

    The second alone is true of any matrix that makes queries only, such as those of latent attention.
    """
    try:
        queries_and_keys = probing.reaches_first_position(call, projection, packing.query_key_features())
        return not queries_and_keys and probing.reaches_first_position(call, projection, packing.value_features())
    except PROBE_ERRORS:
        return False
