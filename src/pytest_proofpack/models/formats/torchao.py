"""Weights that torchao keeps as tensors of classes of its own, saved by transformers as safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_proofpack.errors import FormatError
from pytest_proofpack.models.checkpoint_formats import CheckpointFormat, Loaded
from pytest_proofpack.models.formats.quantized import advice, is_quantized_by, not_packed
from pytest_proofpack.models.safetensors_files import read_stored
from pytest_proofpack.plan.quantization import Quantization, quantization_words

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pytest_proofpack.models.files import CheckpointFiles

METHOD = "torchao"
_TENSORS = "tensor_names"
"""What torchao writes into the metadata of a file that holds tensors of its classes."""
_WEIGHT_ONLY: Mapping[str, str] = {
    "Int8WeightOnlyConfig": "int8wo",
    "Int4WeightOnlyConfig": "int4wo",
    "Float8WeightOnlyConfig": "fp8wo",
}
_DYNAMIC: Mapping[str, tuple[str, str]] = {
    "Int8DynamicActivationInt8WeightConfig": ("int8", "int8"),
    "Int8DynamicActivationInt4WeightConfig": ("int8", "int4"),
    "Float8DynamicActivationFloat8WeightConfig": ("fp8", "fp8"),
    "Float8DynamicActivationInt4WeightConfig": ("fp8", "int4"),
}
"""How activations, dynamically, and weights are quantized."""
_INTX_WEIGHT_ONLY, _INTX_DYNAMIC = "IntxWeightOnlyConfig", "Int8DynamicActivationIntxWeightConfig"
_INTEGER = re.compile(r"int[1-8]")
_NEEDS_GPU: Mapping[str, str] = {
    "Float8DynamicActivationFloat8WeightConfig": "float8 activations",
    "Float8DynamicActivationInt4WeightConfig": "float8 activations",
    "Int4WeightOnlyConfig": "its packed int4",
}


def _types(files: CheckpointFiles) -> list[tuple[str, Mapping[str, Any]]]:
    """Return name and values of every configuration of torchao's in the file: usually one, ``default``."""
    chosen = files.quantization_config.get("quant_type")
    if isinstance(chosen, str):  # as old versions wrote it: int8_weight_only
        return [(chosen, {})]
    found = [_type(own) for own in chosen.values()] if isinstance(chosen, Mapping) else []
    names = [own for own in found if own is not None]
    if len(names) == 1 and names[0][0] in ("FqnToConfig", "ModuleFqnToConfig"):
        inner = next((own for own in names[0][1].values() if isinstance(own, Mapping)), {})
        return [own for own in map(_type, inner.values()) if own is not None]
    return names


def _type(value: object) -> tuple[str, Mapping[str, Any]] | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("_type"), str):
        return None
    data = value.get("_data")
    return value["_type"], data if isinstance(data, Mapping) else {}


def _value(data: Mapping[str, Any], key: str) -> Any:
    """Return a value that torchao wrapped with its type, or as it is."""
    value = data.get(key)
    return value.get("_data") if isinstance(value, Mapping) else value


def _scheme(name: str, data: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return what a configuration does in torchao's short words, and what it does to activations."""
    weights = _value(data, "weight_dtype")
    integer = weights if isinstance(weights, str) and _INTEGER.fullmatch(weights) else "intx"
    if name in _WEIGHT_ONLY:
        return _WEIGHT_ONLY[name], None
    if name == _INTX_WEIGHT_ONLY:
        return f"{integer}wo", None
    if name in _DYNAMIC or name == _INTX_DYNAMIC:
        inputs, own = _DYNAMIC.get(name, ("int8", integer))
        return f"{inputs}dyn-{own}w", f"{inputs}, dynamically"
    return name.removesuffix("Config"), None


def _quantization(files: CheckpointFiles) -> Quantization:
    types = _types(files)
    schemes = {_scheme(*own) for own in types}
    (scheme, activations), data = (schemes.pop(), types[0][1]) if len(schemes) == 1 else (("mixed", None), {})
    bits = re.search(r"(?:int|fp)(\d)w", scheme)
    granularity = next((_value(data, key) for key in ("weight_granularity", "granularity") if key in data), None)
    group = granularity.get("group_size") if isinstance(granularity, Mapping) else data.get("group_size")
    mapping = next((_value(data, key) for key in ("weight_mapping_type", "mapping_type") if key in data), None)
    return quantization_words(
        METHOD,
        scheme,
        bits=int(bits[1]) if bits else None,
        group=group,
        symmetric=mapping.startswith("SYMMETRIC") if isinstance(mapping, str) else None,
        activations=activations,
        ignored=files.quantization_config.get("modules_to_not_convert"),
    )


def _unavailable(files: CheckpointFiles) -> str | None:
    if not any(_TENSORS in _metadata(file) for file in files.weights):
        return not_packed(METHOD, f"{_TENSORS} in the files' metadata")
    needed = next((_NEEDS_GPU[name] for name, _ in _types(files) if name in _NEEDS_GPU), None)
    if needed is None:
        return None
    import torch

    if torch.cuda.is_available():
        return None
    return (
        f"is quantized by torchao with a kernel for GPUs alone ({needed}), and there is none here. Certify it on a "
        "machine with one, or quantize for CPUs: IntxWeightOnlyConfig, Int8WeightOnlyConfig, Float8WeightOnlyConfig."
    )


def _metadata(file: Path) -> Mapping[str, str]:
    """Return what a file's header says besides its tensors; nothing if it can't be read, which is told elsewhere."""
    try:
        return read_stored(file).metadata or {}
    except (FormatError, OSError):
        return {_TENSORS: ""}


def _dequantize(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    from torchao.utils import TorchAOBaseTensor

    for name, parameter in model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, TorchAOBaseTensor) or isinstance(parameter.data, TorchAOBaseTensor):
            yield name, parameter.dequantize()


TORCHAO = CheckpointFormat(
    METHOD,
    recognises=is_quantized_by(METHOD),
    loaded=Loaded.PACKED,
    advice=advice,
    package=METHOD,
    unavailable=_unavailable,
    quantization=_quantization,
    dequantize=_dequantize,
)
