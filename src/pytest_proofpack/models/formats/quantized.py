"""Safetensors that hold quantized weights, as ``quantization_config`` in ``config.json`` says.

fp8 and mxfp4 are turned into dense weights while they are loaded, by transformers alone, so that they can be compared.
Every other form loads as the installed packages load it, where they can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat, Loaded, ReadConfig

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles


def _dense(_files: CheckpointFiles, read_config: ReadConfig) -> Mapping[str, Any]:
    """Return the configuration by which quantized weights become dense ones while they are loaded."""
    config = read_config()
    config.quantization_config = {**config.quantization_config, "dequantize": True}
    return {"config": config}


def _advice(files: CheckpointFiles) -> str:
    return f"Its weights are quantized by {files.quantization_method}: install what that needs, or save it dense."


FP8 = CheckpointFormat(
    "fp8", recognises=lambda files: files.quantization_method == "fp8", arguments=_dense, advice=_advice
)
MXFP4 = CheckpointFormat(
    "mxfp4", recognises=lambda files: files.quantization_method == "mxfp4", arguments=_dense, advice=_advice
)
QUANTIZED = CheckpointFormat(
    "quantized",
    recognises=lambda files: files.quantization_method is not None,
    loaded=Loaded.PACKED,
    advice=_advice,
)
