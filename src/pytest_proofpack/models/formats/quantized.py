"""Safetensors that hold quantized weights, as ``quantization_config`` in ``config.json`` says.

fp8, mxfp8 and mxfp4 are turned into dense weights while they are loaded, by transformers alone: its kernels for running
them packed are for GPUs, and are downloaded. Methods with a module of their own stay packed. All others are refused
before anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat, ReadConfig
from pytest_proofpack.plan.quantization import Quantization, quantization_words

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_IGNORED = "modules_to_not_convert"
REFUSED: Mapping[str, tuple[str, str]] = {
    "quanto": ("optimum-quanto", "which transformers does not save, so that nothing loads it whole"),
    "hqq": ("hqq", "which was not tried here"),
    "fbgemm_fp8": ("fbgemm-gpu", "whose kernels are for GPUs alone"),
    "eetq": ("kernels", "whose kernels are for GPUs alone"),
    "spqr": ("spqr-quant", "whose kernels are for GPUs alone"),
    "aqlm": ("aqlm", "which was not tried here"),
    "vptq": ("vptq", "whose kernels are for GPUs alone"),
    "higgs": ("flute-kernel", "whose kernels are for GPUs alone"),
    "quark": ("amd-quark", "which was not tried here"),
    "bitnet": ("transformers", "whose weights of 1.58 bits were trained as such, so that no dense baseline is theirs"),
    "fp_quant": ("fp-quant", "whose kernels are for GPUs alone"),
    "fouroversix": ("fouroversix", "whose kernels are for GPUs alone"),
    "sinq": ("sinq", "which was not tried here"),
    "metal": ("kernels", "whose kernels are for Apple's GPUs alone"),
    "nvfp4": ("kernels", "which transformers makes while it loads a model, and cannot load once it is saved"),
    "gemma": ("transformers", "whose weights were trained as such, so that no dense baseline is theirs"),
}
"""By method, the package that loads it, and why that is not certified."""


def dense(_files: CheckpointFiles, read_config: ReadConfig) -> Mapping[str, Any]:
    """Return the configuration by which quantized weights become dense ones while they are loaded."""
    config = read_config()
    config.quantization_config = {**config.quantization_config, "dequantize": True}
    return {"config": config}


def advice(files: CheckpointFiles) -> str:
    """Return what an error while loading says of a quantized form."""
    return f"Its weights are quantized by {files.quantization_method}: install what that needs, or save it dense."


def not_packed(method: str, parts: str) -> str:
    """Return why a checkpoint of this form can't be loaded of whose tensors none is packed.

    Args:
        method: what the configuration names.
        parts: what the names of such tensors look like.
    """
    return (
        f"config.json says that its weights are quantized by {method}, and no tensor is packed so "
        f"({parts}). If they are dense, remove quantization_config from config.json."
    )


def is_quantized_by(method: str) -> Callable[[CheckpointFiles], bool]:
    """Return what tells whether a checkpoint's configuration names a method."""
    return lambda files: files.quantization_method == method


def _refusal(files: CheckpointFiles) -> str:
    if files.quantization_config.get("quant_method") is None:
        return (
            "config.json has a quantization_config that names no quant_method, so nobody can tell what the weights are "
            "worth. If they are dense, remove quantization_config from config.json."
        )
    method = str(files.quantization_method)
    package, why = REFUSED.get(method, ("", ""))
    form = f"is quantized by {method[:40]!r}"
    form += f", a form of the package {package}, {why}" if package else ", a form that is not known here"
    return (
        f"{form}, so it is not certified. Dequantize it where it was made, and save that: its weights can be certified."
    )


def _fp8(files: CheckpointFiles) -> Quantization:
    config = files.quantization_config
    block = config.get("weight_block_size")
    group = block[-1] if isinstance(block, list) and block else None
    scheme = config.get("activation_scheme")
    return quantization_words(
        files.quantization_method,
        label=files.quantization_method,
        bits=8,
        group=group,
        activations=f"fp8, {scheme}" if isinstance(scheme, str) else None,
        ignored=config.get(_IGNORED),
    )


def _mxfp4(files: CheckpointFiles) -> Quantization:
    return quantization_words("mxfp4", bits=4, group=32, ignored=files.quantization_config.get(_IGNORED))


def _becomes_dense(
    method: str, quantization: Callable[[CheckpointFiles], Quantization], packed_as: tuple[str, ...]
) -> CheckpointFormat:
    """Return the record of a method, whose quantized tensors are of one of these types of safetensors.

    transformers takes dense tensors as they are where it expects such, and others who load the checkpoint do not.
    """

    def unavailable(files: CheckpointFiles) -> str | None:
        types = {header.dtype for header in files.stored.values()}
        return None if types.intersection(packed_as) else not_packed(method, f"in tensors of {' or '.join(packed_as)}")

    return CheckpointFormat(
        method,
        recognises=is_quantized_by(method),
        arguments=dense,
        advice=advice,
        unavailable=unavailable,
        quantization=quantization,
    )


_FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
FP8, MXFP8, MXFP4 = (
    _becomes_dense("fp8", _fp8, _FLOAT8),
    _becomes_dense("mxfp8", _fp8, _FLOAT8),
    _becomes_dense("mxfp4", _mxfp4, ("U8",)),
)
QUANTIZED = CheckpointFormat(
    "quantized", recognises=lambda files: files.claims.get("quantization_config") is not None, refuses=_refusal
)
