"""Weights of four bits in the packing of AutoAWQ's ``gemm``: made by AutoAWQ, GPTQModel or AutoRound.

Eight outputs of an input stand in a word of ``qweight``, in an order of their own, zero points likewise. AutoAWQ is no
longer kept, and what runs them now, GPTQModel, is not imported here, see :mod:`pytest_proofpack.models.formats.gptq`;
they are unpacked by the formula of both: (code - zero point) * scale in the type of the scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from pytest_proofpack.models.formats.unpacked import rotated, unpacked_here
from pytest_proofpack.models.packed_matrices import (
    CODES,
    SCALE_TYPES,
    SCALES,
    WORD_TYPES,
    ZEROS,
    PackedMatrix,
    PackedModule,
    dequantized,
    packed_matrices,
)
from pytest_proofpack.plan.quantization import Quantization, quantization_words

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_proofpack.models.files import CheckpointFiles

METHOD = "awq"
_LAYOUT = "gemm"
_IN_WORD = 8


def awq_matrices(files: CheckpointFiles) -> Mapping[str, PackedMatrix]:
    """Return the matrices that a checkpoint holds in this packing; see :func:`packed_matrices`."""
    return packed_matrices(files, _matrix)


def _matrix(module: PackedModule) -> PackedMatrix:
    inputs, words = module.shape(CODES, WORD_TYPES)
    groups, outputs = module.shape(SCALES, SCALE_TYPES)
    if words * _IN_WORD != outputs:
        raise module.error(CODES, f"has {words} columns, and {outputs} outputs of 4 bits take {outputs / _IN_WORD:g}")
    if (zeros := module.shape(ZEROS, WORD_TYPES)) != (groups, words):
        raise module.error(ZEROS, f"is {list(zeros)}, and the scales want {[groups, words]}")
    if inputs % groups:
        raise module.error(SCALES, f"has {groups} rows, which does not divide the {inputs} inputs")
    return module.matrix(outputs, inputs, partial(_values, group=inputs // groups))


def _values(parts: Mapping[str, Tensor], *, group: int) -> Tensor:
    import torch

    from pytest_proofpack.models.bit_fields import interleaved

    codes = parts[CODES]
    groups = torch.arange(len(codes)) // group
    return dequantized(
        lambda first, last: interleaved(codes[first:last]), interleaved(parts[ZEROS]), parts[SCALES], groups
    )


def _layout(files: CheckpointFiles) -> str:
    config = files.quantization_config
    said = config.get("version") or config.get("format") or config.get("checkpoint_format") or _LAYOUT
    return "llm-awq" if config.get("backend") == "llm-awq" else str(said).lower()


def _unavailable(files: CheckpointFiles) -> str | None:
    if (layout := _layout(files)) == _LAYOUT:
        return rotated(files.quantization_config.get("rotation"))
    return (
        f"is packed by AWQ's tools as {layout[:40]!r}, a layout that is not read here. Save it as {_LAYOUT!r} where it "
        "was made, or dense."
    )


def _quantization(files: CheckpointFiles) -> Quantization:
    config = files.quantization_config
    has_zeros = config.get("zero_point")
    return quantization_words(
        METHOD,
        None if _layout(files) == _LAYOUT else _layout(files),
        METHOD,
        bits=config.get("bits", config.get("w_bit")),
        group=config.get("group_size", config.get("q_group_size")),
        symmetric=not has_zeros if isinstance(has_zeros, bool) else config.get("sym"),
        ignored=config.get("modules_to_not_convert"),
    )


AWQ = unpacked_here(METHOD, unavailable=_unavailable, quantization=_quantization, unpacks=awq_matrices)
