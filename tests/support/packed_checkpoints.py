"""Checkpoints packed as GPTQ and AWQ pack, bit by bit as the layouts are published, and what their weights are worth.

Nothing of the package that is tested is used: bits are laid out one by one, and values are computed in float64.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.edited_checkpoints import EMBEDDED

_PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_BLOCK = 32


@dataclass(frozen=True)
class Packing:
    """How a checkpoint is packed.

    Attributes:
        method: ``gptq`` or ``awq``.
        bits: of a code.
        group: inputs that share a scale; -1 for all of them.
        version: of GPTQ's packing: ``gptq`` (zero points less one), ``gptq_v2`` or ``gptq_p`` (planes).
        symmetric: whether all zero points are the middle of the codes.
        shuffled: whether inputs are in groups at random, which ``g_idx`` tells.
        grouped: whether there is a ``g_idx`` at all.
        inputs_first: whether the matrices have their inputs first.
    """

    method: str = "gptq"
    bits: int = 4
    group: int = 32
    version: str = "gptq"
    symmetric: bool = True
    shuffled: bool = False
    grouped: bool = True
    inputs_first: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """``quantization_config`` as the tools write it."""
        own = {"quant_method": self.method, "bits": self.bits, "group_size": self.group, "sym": self.symmetric}
        if self.method == "awq":
            return {**own, "version": "gemm", "zero_point": not self.symmetric, "modules_to_not_convert": ["lm_head"]}
        return {**own, "checkpoint_format": self.version, "desc_act": self.shuffled, "lm_head": False}


def packed_copy(
    target: Path,
    packing: Packing,
    base: Path = EMBEDDED,
    *,
    layer: str = "layers.",
    dtype: torch.dtype = torch.float16,
    **config: Any,
) -> Mapping[str, Tensor]:
    """Quantize the matrices of a model's layers by rounding to the nearest; return what they are worth, in float16.

    Args:
        target: the directory to make.
        packing: how.
        base: the model.
        layer: what is in the names of the matrices that are packed.
        dtype: of all others, and of the model.
        config: what is added to, or replaces values of, ``quantization_config``.
    """
    target.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, target / name)
    known = json.loads((base / "config.json").read_text())
    known |= {"dtype": str(dtype).removeprefix("torch."), "quantization_config": {**packing.config, **config}}
    (target / "config.json").write_text(json.dumps(known))
    stored, worth = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in load_file(base / "model.safetensors").items():
        if layer in name and name.endswith(".weight") and tensor.ndim == 2:
            weight = tensor.t() if packing.inputs_first else tensor
            parts, values = packed(weight.double().numpy(), packing)
            stored |= {f"{name.removesuffix('.weight')}.{part}": own for part, own in parts.items()}
            worth[name] = values.t().contiguous() if packing.inputs_first else values
        else:
            stored[name] = tensor.to(dtype)
    save_file(stored, target / "model.safetensors", metadata={"format": "pt"})
    return worth


def packed(weight: np.ndarray[Any, Any], packing: Packing) -> tuple[dict[str, Tensor], Tensor]:
    """Return the packed tensors of a matrix, shape (outputs, inputs), and its values once they are unpacked."""
    inputs, most = weight.shape[1], 2**packing.bits - 1
    size = inputs if packing.group == -1 else packing.group
    groups = np.arange(inputs) // size
    if packing.shuffled:
        groups = np.random.default_rng(0).permutation(groups)
    count = groups.max() + 1
    low, high = (np.stack([edge(weight[:, groups == own]) for own in range(count)]) for edge in (_low, _high))
    if packing.symmetric:
        largest = np.maximum(np.abs(low), np.abs(high))
        low, high = -largest, largest
    scales = np.maximum((high - low) / most, 1e-4).astype(np.float16).astype(np.float64)
    zeros = (
        np.full_like(low, 2 ** (packing.bits - 1)) if packing.symmetric else np.clip(np.rint(-low / scales), 0, most)
    )
    codes = np.clip(np.rint(weight.T / scales[groups]) + zeros[groups], 0, most).astype(np.int64)
    values = ((codes - zeros[groups]) * scales[groups]).astype(np.float16).T
    zeros = zeros.astype(np.int64)
    if packing.method == "awq":
        parts = {"qweight": _awq(codes), "qzeros": _awq(zeros)}
    else:
        parts = {"qweight": _words(codes, packing), "qzeros": _stored_zeros(zeros, packing)}
    if packing.grouped and packing.method != "awq":
        parts["g_idx"] = groups.astype(np.int32)
    parts["scales"] = scales.astype(np.float16)
    return {part: torch.from_numpy(np.ascontiguousarray(own)) for part, own in parts.items()}, torch.from_numpy(
        np.ascontiguousarray(values)
    )


def _low(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.minimum(weight.min(axis=1), 0))


def _high(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.maximum(weight.max(axis=1), 0))


def _stored_zeros(zeros: np.ndarray[Any, Any], packing: Packing) -> np.ndarray[Any, Any]:
    """Return zero points packed along their rows; those of the first version less one, as GPTQModel takes it away."""
    if packing.version != "gptq":
        return _words(zeros.T, packing).T
    if packing.bits == 3:
        return _words(((zeros - 1) & 7).T, packing).T
    whole = _words(zeros.T, packing).T.astype(np.int64) % 2**32  # in whole words, so that 0 borrows from the next one
    less = (whole - int("".join("1".rjust(packing.bits, "0") for _ in range(32 // packing.bits)), 2)) % 2**32
    return less.astype(np.uint32).view(np.int32)


def _words(codes: np.ndarray[Any, Any], packing: Packing) -> np.ndarray[Any, Any]:
    """Return codes, shape (n, columns), as words down the columns, every bit in its place."""
    if packing.version != "gptq_p":
        return _stream(codes, packing.bits)
    blocks = []
    for first in range(0, len(codes), _BLOCK):
        begin = 0
        for width in _PLANES[packing.bits]:
            blocks.append(_stream(codes[first : first + _BLOCK] >> begin & (2**width - 1), width))
            begin += width
    return np.concatenate(blocks)


def _stream(codes: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    every = (codes.T[:, :, None] >> np.arange(bits) & 1).reshape(codes.shape[1], -1)
    padded = np.pad(every, ((0, 0), (0, -every.shape[1] % 32)))
    packed_bytes = np.packbits(padded.astype(np.uint8), axis=1, bitorder="little")
    return np.ascontiguousarray(packed_bytes).view("<i4").T


def _awq(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return codes of 4 bits, shape (rows, columns), as AutoAWQ packs eight columns into a word."""
    words = np.zeros((len(codes), codes.shape[1] // 8), dtype=np.int64)
    for column in range(words.shape[1]):
        for place, own in enumerate(_AWQ_ORDER):
            words[:, column] |= codes[:, column * 8 + own] << (4 * place)
    return words.astype(np.uint32).view(np.int32)
