"""Measure what separates a loaded subject from its baseline, one tensor at a time.

The baseline's values come from the loaded model, or, where there is no room for both, from its files. All numbers are
made on the subject's device and fetched once; no more than one tensor of the baseline, and two chunks in float32, are
held besides the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_proofpack.guards.changes import (
    CHANGED,
    GROUP,
    NOT_COMPARED,
    NOT_FINITE,
    SAME,
    ModelChanges,
    TensorChange,
)
from pytest_proofpack.guards.vocabulary_growth import TABLES, rows_added
from pytest_proofpack.models.layout import ModelLayout

Loading = Mapping[str, tuple[str, ...]]
Reference = Callable[[str], Tensor | None]
"""Gives the baseline's parameter of a name, or None if it has none to give."""

_SAMPLED_ROWS = 64
_CPU_CHUNK = 2**20
_CHUNK = 2**26
_SIGNIFICANT_DIGITS = 7


def reference_of_model(model: PreTrainedModel) -> Reference:
    """Return the parameters of a loaded baseline, under all of their names."""
    return dict(model.named_parameters(remove_duplicate=False)).get


def measure_changes(
    subject: PreTrainedModel,
    layout: ModelLayout,
    shapes: Mapping[str, torch.Size],
    reference: Reference,
    *,
    source: str,
    loading: Loading,
) -> ModelChanges:
    """Compare every parameter of the baseline with the subject's of the same name.

    Args:
        subject: the loaded subject.
        layout: the BASELINE's, which knows the groups.
        shapes: of every parameter of the baseline.
        reference: gives the baseline's values.
        source: what ``reference`` reads: ``memory`` or ``files``.
        loading: keys that loading the subject reported as ``missing``, ``unexpected`` or ``mismatched``. What it
            filled with fresh values is not compared. What is missing was removed if it is the baseline's, and what is
            unexpected was added if it is not.

    Of a table of tokens to which rows were added, those are compared that both have.
    """
    ours = dict(subject.named_parameters(remove_duplicate=False))
    fresh = {*loading.get("missing", ()), *loading.get("mismatched", ())}
    present = [name for name in shapes if name in ours]
    reshaped = {name for name in present if ours[name].shape != shapes[name]}
    measured: dict[str, Tensor] = {}
    with torch.inference_mode():
        for name in present:
            now = common_rows(ours[name], shapes[name]) if layout.groups[name].value in TABLES else ours[name]
            if name in fresh or now.shape != shapes[name] or not _has_values(now):
                continue
            base = reference(name)
            if base is not None and base.shape == shapes[name] and _has_values(base):
                measured[name] = _numbers(base, now, _is_transposed(subject, name))
        numbers = _fetch(measured)
    tensors = tuple(
        _tensor_change(name, layout.groups[name].value, shape.numel(), numbers.get(name))
        for name, shape in shapes.items()
    )
    added = {name for name, _ in subject.named_parameters()} - shapes.keys()
    return ModelChanges(
        source=source,
        tensors=tensors,
        added=_sorted(added, {*loading.get("unexpected", ())} - shapes.keys()),
        removed=_sorted(shapes.keys() - ours.keys(), {*loading.get("missing", ())} - added),
        reshaped=_sorted(reshaped, loading.get("mismatched", ())),
        loading={kind: len(names) for kind, names in loading.items()},
    )


def common_rows(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return a tensor without rows that were added to one of this shape; itself if nothing but rows was not added."""
    return tensor[: shape[0]] if rows_added(shape, tensor.shape) else tensor


def _has_values(tensor: Tensor) -> bool:
    """Tell whether a tensor holds the numbers that the model computes with: packed integers are none."""
    return tensor.is_floating_point() and not tensor.is_meta


def _is_transposed(model: PreTrainedModel, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D)


def _numbers(base: Tensor, now: Tensor, transposed: bool) -> Tensor:
    """Return, on the subject's device, float64 of shape (8,).

    Squared norms of baseline, subject and difference, zeros of both, count of differing values, and the largest number
    of distinct values per group of both (0 where the rows are too short).
    """
    totals = torch.zeros(6, dtype=torch.float64, device=now.device)
    for ours, theirs in _chunks(base, now):
        totals += torch.stack(
            [
                *(torch.linalg.vector_norm(values).double().square() for values in (ours, theirs, theirs - ours)),
                (ours == 0).sum().double(),
                (theirs == 0).sum().double(),
                (ours != theirs).sum().double(),
            ]
        )
    groups = [_distinct_per_group(tensor, transposed).to(now.device) for tensor in (base, now)]
    return torch.cat((totals, torch.stack(groups).double()))


def _chunks(base: Tensor, now: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield corresponding parts of two tensors of one shape, in float32 on the second's device."""
    size = _CPU_CHUNK if now.device.type == "cpu" else _CHUNK
    pair = (tensor.detach().flatten() for tensor in (base, now))
    for ours, theirs in zip(*(torch.split(values, size) for values in pair), strict=True):
        yield ours.to(now.device).float(), theirs.float()


def _distinct_per_group(tensor: Tensor, transposed: bool) -> Tensor:
    """Return the largest number of distinct values in a group of neighbours, over evenly spaced rows; 0 if too short.

    Quantized with one scale per group of at least :data:`GROUP` columns to b bits, there are at most 2^b of them.
    """
    matrix = tensor.detach().t() if transposed and tensor.ndim == 2 else tensor.detach()
    width = matrix.shape[-1] // GROUP * GROUP if matrix.ndim > 1 else 0
    if not width or not matrix.numel():
        return torch.zeros((), device=tensor.device)
    rows = matrix.reshape(-1, matrix.shape[-1])
    step = max(1, rows.shape[0] // _SAMPLED_ROWS)
    groups = rows[::step][:_SAMPLED_ROWS, :width].float().reshape(-1, GROUP).sort(dim=1).values
    return (groups.diff(dim=1) != 0).sum(dim=1).amax() + 1


def _fetch(measured: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Bring all numbers from the device at once per device."""
    if not measured:
        return {}
    device = next(iter(measured.values())).device
    rows = torch.stack([numbers.to(device) for numbers in measured.values()]).tolist()
    return dict(zip(measured, rows, strict=True))


def _tensor_change(name: str, parameter_group: str, elements: int, numbers: list[float] | None) -> TensorChange:
    if numbers is None:
        return TensorChange(name, parameter_group, NOT_COMPARED, elements)
    squares, (zeros_base, zeros, differing, distinct_base, distinct) = numbers[:3], map(int, numbers[3:])
    norm_base, norm, difference = (_rounded(square) for square in squares)
    if not differing:
        return TensorChange(name, parameter_group, SAME, elements, norm_base, zeros_base)
    if norm_base is None:
        return TensorChange(name, parameter_group, NOT_COMPARED, elements)
    if norm is None or difference is None:
        return TensorChange(name, parameter_group, NOT_FINITE, elements, norm_base, zeros_base)
    groups = (distinct_base, distinct) if distinct_base and distinct else (None, None)
    return TensorChange(
        name, parameter_group, CHANGED, elements, norm_base, zeros_base, norm, zeros, difference, *groups
    )


def _rounded(square: float) -> float | None:
    """Return the root of a sum of squares to seven digits; None if it is not finite."""
    root = square**0.5
    return float(f"{root:.{_SIGNIFICANT_DIGITS - 1}e}") if root < float("inf") else None


def _sorted(*names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for group in names for name in group}))
