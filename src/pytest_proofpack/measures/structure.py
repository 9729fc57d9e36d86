"""Measure what the invariants guard compares: tensors, norms, tying, vocabulary and configuration of a model."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_proofpack.guards.inventory import Inventory, ListedSublayer, ListedTensor
from pytest_proofpack.guards.structure import StructureMeasure, TensorFacts
from pytest_proofpack.models.layout import ModelLayout, ParameterGroup
from pytest_proofpack.models.matrices import matrices_and_vectors


def measure_structure(
    model: PreTrainedModel,
    layout: ModelLayout,
    tokenizer_size: int,
    *,
    loading: Mapping[str, tuple[str, ...]] | None = None,
    tokenizer: str | None = None,
) -> StructureMeasure:
    """Measure the structure of ``model``.

    Args:
        model: baseline or edited model.
        layout: the layout of the BASELINE, which says what its norms are.
        tokenizer_size: number of token ids that the tokenizer can produce.
        loading: keys that loading reported as ``missing``, ``unexpected`` or ``mismatched``.
        tokenizer: fingerprint of the subject's own tokenizer, where it has one.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    found = _non_finite(list(tensors.values()))
    facts = {
        name: TensorFacts(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), *own)
        for (name, tensor), own in zip(tensors.items(), found, strict=True)
    }
    return StructureMeasure(
        tensors=facts,
        norm_modules=_norm_modules(model, layout),
        tied=_tied_groups(model),
        config_tied=bool(getattr(model.config, "tie_word_embeddings", False)),
        vocabulary=_vocabulary(model, tokenizer_size),
        config=plain_json(model.config.to_dict()),
        loading=loading or {},
        tokenizer=tokenizer,
    )


def _non_finite(tensors: list[torch.Tensor]) -> list[tuple[int, str | None]]:
    """Count NaN and infinite values per tensor, with one transfer from the device for all of them.

    Returns:
        Per tensor the count, and a digest of where they stand and what they are; None where there are none, or a NaN.
    """
    if not tensors:
        return []
    with torch.inference_mode():
        # Minimum and maximum are finite exactly if all values are: one pass without a mask, and only tensors that fail
        # it are looked at element by element.
        extremes = [_extremes(tensor) for tensor in tensors]
        device = extremes[0].device  # a large model's layers lie on several
        finite = torch.stack([own.to(device) for own in extremes]).isfinite().all(dim=1).tolist()
        return [
            (0, None) if clean else _non_finite_places(tensor) for tensor, clean in zip(tensors, finite, strict=True)
        ]


def _non_finite_places(tensor: torch.Tensor) -> tuple[int, str | None]:
    """Return how many values are not finite, and a digest of their places and signs; None if one of them is NaN."""
    values = tensor.flatten()
    places = (~values.isfinite()).nonzero().flatten()
    infinite = values[places]
    if infinite.isnan().any():
        return len(places), None
    digest = hashlib.sha256(places.cpu().numpy().tobytes() + (infinite > 0).cpu().numpy().tobytes())
    return len(places), digest.hexdigest()


def _extremes(tensor: torch.Tensor) -> torch.Tensor:
    """Return minimum and maximum as float64 on the tensor's device; zeros for tensors that cannot be non-finite."""
    if not tensor.is_floating_point() or not tensor.numel():
        return torch.zeros(2, dtype=torch.float64, device=tensor.device)
    return torch.stack(torch.aminmax(tensor)).to(torch.float64)


def _norm_modules(model: nn.Module, layout: ModelLayout) -> dict[str, str]:
    """Return the class of every norm: owners of the baseline's norm parameters, and modules of the same classes."""
    owners = {
        name.rpartition(".")[0]
        for name, parameter_group in layout.groups.items()
        if parameter_group is ParameterGroup.NORM
    }
    modules = dict(model.named_modules())
    classes = {type(modules[name]).__name__ for name in owners if name in modules}
    return {name: kind for name, module in modules.items() if (kind := type(module).__name__) in classes}


def _tied_groups(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the groups of parameter names that share one storage."""
    groups: dict[tuple[torch.device, int, torch.Size], list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.numel():
            groups[parameter.device, parameter.data_ptr(), parameter.shape].append(name)
    return tuple(sorted(tuple(sorted(names)) for names in groups.values() if len(names) > 1))


def _vocabulary(model: PreTrainedModel, tokenizer_size: int) -> dict[str, int]:
    sizes = {"tokenizer": tokenizer_size, "config": int(model.config.get_text_config().vocab_size)}
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for place, module in (("embedding", model.get_input_embeddings()), ("head", head)):
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor):
            sizes[place] = int(weight.shape[0])
    return sizes


def plain_json(value: Any) -> Any:
    """Turn a configuration into plain JSON: what JSON cannot hold becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def measure_inventory(model: PreTrainedModel, layout: ModelLayout) -> Inventory:
    """List what of a baseline there is to be judged.

    Raises:
        ConfigurationError: a parameter is not in memory.
    """
    parameters = {name: own for name, own in model.named_parameters() if own.numel()}
    matrices_in = Counter(view.parameter for view in matrices_and_vectors(model, layout, parameters)[0])
    listed = []
    for name in parameters:
        group = layout.groups[name]
        matrices = matrices_in[name]
        in_block = matrices and group not in (ParameterGroup.EMBED, ParameterGroup.HEAD, ParameterGroup.NORM)
        listed.append(ListedTensor(name, group.value, layout.block_of[name] if in_block else None, matrices))
    sublayers = tuple(ListedSublayer(own.name, own.group.value, own.block) for own in layout.sublayers)
    return Inventory(tuple(listed), sublayers, layout.warnings)
