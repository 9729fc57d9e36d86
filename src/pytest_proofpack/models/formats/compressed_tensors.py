"""Weights that compressed-tensors packed: what llm-compressor saves.

The package's own integration in transformers loads them, and unpacks them when the model first runs; activations are
quantized, where the scheme says so, in every forward pass. The weights are what it unpacks them to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat, Loaded
from pytest_proofpack.models.formats.quantized import advice, dense, not_packed
from pytest_proofpack.plan.quantization import Quantization, quantization_words

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pytest_proofpack.models.files import CheckpointFiles

METHOD = "compressed-tensors"
_PACKED = "pack-quantized"
_PARTS = ("_packed", "_scale", "_zero_point")
"""Ends of the names of what stands in or beside a quantized tensor."""
_SPARSE = ("sparse-24-bitmask", "sparse-bitmask", "marlin-24")


def _recognises(files: CheckpointFiles) -> bool:
    return files.quantization_method == METHOD


def _groups(files: CheckpointFiles) -> list[Mapping[str, Any]]:
    groups = files.quantization_config.get("config_groups")
    return [own for own in groups.values() if isinstance(own, Mapping)] if isinstance(groups, Mapping) else []


def _part(group: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = group.get(key)
    return part if isinstance(part, Mapping) else {}


def _is_packed_asymmetric(files: CheckpointFiles) -> bool:
    """Tell whether zero points are packed too: up to 0.20.0, the package can't load those into its own modules.

    On the meta device, on which transformers builds models, its compressor leaves zero points unpacked, so the packed
    ones of the files fit nothing.
    """
    config = files.quantization_config
    return _recognises(files) and any(
        group.get("format", config.get("format")) in (_PACKED, None)
        and _part(group, "weights").get("symmetric") is False
        for group in _groups(files)
    )


def _unavailable(files: CheckpointFiles) -> str | None:
    config = files.quantization_config
    formats = {str(files.quantization_config.get("format")), *(str(group.get("format")) for group in _groups(files))}
    sparse = config.get("sparsity_config")
    if isinstance(sparse, Mapping):
        formats.add(str(sparse.get("format")))
    found = next((name for name in _SPARSE if name in formats), None)
    if found is not None:
        return (
            f"is compressed by compressed-tensors as {found!r}, which that package reads no longer since 0.15. Save "
            "the model dense, with its zeros, where it was made: save_pretrained(directory, save_compressed=False)."
        )
    return None if any(name.endswith(_PARTS) for name in files.stored) else not_packed(METHOD, "*_packed, *_scale")


def _quantization(files: CheckpointFiles) -> Quantization:
    groups = _groups(files)
    schemes = [_scheme(group) for group in groups]
    first = _part(groups[0], "weights") if len(set(schemes)) == 1 else {}
    return quantization_words(
        METHOD,
        schemes[0] if len(set(schemes)) == 1 else "mixed",
        bits=first.get("num_bits"),
        group=first.get("group_size"),
        symmetric=first.get("symmetric"),
        activations=_activations(groups[0]) if groups else None,
        ignored=files.quantization_config.get("ignore"),
    )


def _scheme(group: Mapping[str, Any]) -> str | None:
    """Return a group's scheme as llm-compressor calls it: W4A16, W8A8, FP8, FP8_DYNAMIC, NVFP4, MXFP4A16 ..."""
    weights, inputs = _part(group, "weights"), _part(group, "input_activations")
    kind, bits = weights.get("type", "int"), weights.get("num_bits")
    if type(bits) is not int:
        return None
    if kind == "int":
        given = inputs.get("num_bits", 16) if inputs else 16
        return f"W{bits}A{given}{'' if weights.get('symmetric', True) else '_ASYM'}"
    if weights.get("strategy") == "tensor_group":
        name = f"NVFP{bits}"
    elif weights.get("strategy") == "group" and weights.get("group_size") == 32:
        name = f"MXFP{bits}"
    else:
        name = f"FP{bits}"
    if not inputs:
        return f"{name}A16"
    return f"{name}_DYNAMIC" if name == "FP8" and inputs.get("dynamic") is True else name


def _activations(group: Mapping[str, Any]) -> str | None:
    inputs = _part(group, "input_activations")
    if not inputs:
        return None
    when = "statically" if inputs.get("dynamic") is False else "dynamically"
    return f"{inputs.get('type')}{inputs.get('num_bits')}, {when}, by {inputs.get('strategy')}"


def _dequantize(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Unpack all modules as the first forward pass would, and yield what they hold then."""
    quantizer: Any = model.hf_quantizer
    quantizer.compressor.decompress_model(model)
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None and scheme.weights is not None:
            yield f"{name}.weight", module.get_parameter("weight")


COMPRESSED_TENSORS = CheckpointFormat(
    METHOD,
    recognises=_recognises,
    loaded=Loaded.PACKED,
    advice=advice,
    package=METHOD,
    unavailable=_unavailable,
    quantization=_quantization,
    dequantize=_dequantize,
)
COMPRESSED_TENSORS_ASYMMETRIC = CheckpointFormat(
    "compressed-tensors-asymmetric",
    recognises=_is_packed_asymmetric,
    arguments=dense,
    advice=advice,
    package=METHOD,
    unavailable=_unavailable,
    quantization=_quantization,
)
"""Loaded dense, as :func:`_is_packed_asymmetric` explains; it comes before the other."""
