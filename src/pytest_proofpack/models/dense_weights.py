"""What a model's packed weights are worth: a second model of the same names that holds dense values, and never runs.

It is built on the meta device, as the model would be without its quantization, and given values: the dense ones that
the checkpoint's format yields, and otherwise the very tensors of the model that runs, which take no more memory. Who
measures weights asks it, and needs to know nothing of any packing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from pytest_proofpack.errors import EvaluationError

_NAMES_SHOWN = 4


def dense_weights(
    model: PreTrainedModel, dequantize: Callable[[PreTrainedModel], Iterable[tuple[str, Tensor]]], model_id: str
) -> PreTrainedModel:
    """Return a model that holds dense values under the names that ``model`` has without its quantization.

    Args:
        model: as it runs, its weights packed.
        dequantize: see :class:`~pytest_proofpack.models.checkpoint_formats.CheckpointFormat`.
        model_id: for messages.

    Raises:
        EvaluationError: a parameter is packed and no dense values are given for it, or such of another shape.
    """
    dense = _skeleton(model)
    wanted = dict(dense.named_parameters(remove_duplicate=False))
    given = {name: values.detach() for name, values in dequantize(model) if name in wanted}
    packed = dict(model.named_parameters(remove_duplicate=False))  # after that, because it may unpack in place
    made: dict[int, nn.Parameter] = {}
    missing = []
    for name, expected in wanted.items():
        own, values = packed.get(name), given.get(name)
        if values is not None:
            known = made.get(id(own)) if own is not None else None  # tied ones stay tied
            parameter = known if known is not None else _parameter(values.to(expected.dtype))
        elif own is not None and type(own) is nn.Parameter and own.is_floating_point():
            parameter = own
        else:
            missing.append(name)
            continue
        if own is not None:
            made[id(own)] = parameter
        if parameter.shape != expected.shape:
            raise EvaluationError(
                f"{model_id}: {name} is unpacked to {tuple(parameter.shape)}, and the configuration says "
                f"{tuple(expected.shape)}. It is not that of the weights; save the model again."
            )
        _set(dense, name, parameter)
    if missing:
        raise EvaluationError(
            f"{model_id}: {len(missing)} parameters stay packed, and nothing says what they are worth "
            f"({', '.join(missing[:_NAMES_SHOWN])}). Save the model dense where it was made."
        )
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for name, _ in list(dense.named_buffers(remove_duplicate=False)):
        if name in buffers:
            owner, _, leaf = name.rpartition(".")
            dense.get_submodule(owner)._buffers[leaf] = buffers[name]
    dense.train(False).requires_grad_(requires_grad=False)
    return dense


def dense_names(model: PreTrainedModel) -> frozenset[str]:
    """Return the names of all parameters and buffers that a packed model would have if it were dense."""
    dense = _skeleton(model)
    parameters = (name for name, _ in dense.named_parameters(remove_duplicate=False))
    return frozenset([*parameters, *(name for name, _ in dense.named_buffers(remove_duplicate=False))])


def _skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model as it would be without its quantization, without values."""
    with torch.device("meta"):
        config = without_quantization(model.config)
        dense: PreTrainedModel = type(model)._from_config(config, dtype=model.dtype)  # type: ignore[no-untyped-call]
    return dense


def without_quantization(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the model as it was before it was quantized."""
    own = deepcopy(config)
    for part in (own, own.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return own


def _parameter(values: Tensor) -> nn.Parameter:
    return values if type(values) is nn.Parameter else nn.Parameter(values, requires_grad=False)


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    model.get_submodule(owner)._parameters[leaf] = parameter
