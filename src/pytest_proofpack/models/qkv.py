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
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    stated = [getattr(config, key, None) for key in ("num_key_value_heads", "num_kv_heads")]
    for kv_heads in dict.fromkeys((*(count for count in stated if count), heads, 1)):
        if (heads + 2 * kv_heads) * head_dim == outputs:
            yield QkvPacking(heads, kv_heads, head_dim, interleaved=False)
            yield QkvPacking(heads, kv_heads, head_dim, interleaved=True)


def _is_confirmed(packing: QkvPacking, call: Call, projection: nn.Module) -> bool:
    try:
        return probing.are_query_or_key(call, projection, packing.query_key_features())
    except PROBE_ERRORS:
        return False
