"""What the forms share whose weights this package unpacks, so that transformers is given a dense model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat, ReadConfig
from pytest_proofpack.models.formats.quantized import advice, is_quantized_by

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.models.packed_matrices import PackedMatrix
    from pytest_proofpack.plan.quantization import Quantization


def unpacked_here(
    method: str,
    *,
    unavailable: Callable[[CheckpointFiles], str | None],
    quantization: Callable[[CheckpointFiles], Quantization],
    unpacks: Callable[[CheckpointFiles], Mapping[str, PackedMatrix]],
) -> CheckpointFormat:
    """Return the form of checkpoints of a ``quant_method``, which is its name too; see :class:`CheckpointFormat`."""
    return CheckpointFormat(
        method,
        recognises=is_quantized_by(method),
        arguments=_without_quantization,
        advice=advice,
        unavailable=unavailable,
        quantization=quantization,
        unpacks=unpacks,
    )


def rotated(setting: object) -> str | None:
    """Return why a model with rotations is not certified, if it has some."""
    if not setting:
        return None
    return "rotates what its matrices are given, which no weights show, so it is not certified. Quantize it without."


def _without_quantization(_files: CheckpointFiles, read_config: ReadConfig) -> Mapping[str, Any]:
    """Return the configuration of a model whose weights are dense by the time that transformers sees them."""
    from pytest_proofpack.models.dense_weights import without_quantization

    return {"config": without_quantization(read_config())}
