"""Measure what the spectral guard judges: singular values and norms of every matrix, norms of every vector.

The baseline is measured once and keeps, on the device, what a comparison needs: the norms of rows and columns, the
leading right singular vector, the values of vectors. A subject is compared with that while it is measured, so that
only a few numbers per matrix leave the device, after all work on it has been launched.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.contract import contract_hash
from pytest_proofpack.guards.spectral_evidence import (
    MEASURED,
    MISSING,
    NOT_FINITE,
    SAME,
    MatrixChange,
    SpectralEvidence,
    VectorChange,
)
from pytest_proofpack.guards.vocabulary_growth import rows_added
from pytest_proofpack.measures.singular import (
    batch_elements,
    largest_by_power_iteration,
    leading_singular_pairs,
    random_start,
    row_and_column_norms,
)
from pytest_proofpack.models.layout import ModelLayout, ParameterGroup
from pytest_proofpack.models.matrices import MatrixView, matrices_and_vectors

_TINY = 1e-30
_LARGEST_RATIO = 1e30
_MATRIX_NUMBERS = ("sigma", "frobenius", "row_min", "row_max", "column_min", "column_max")
_VECTOR_NUMBERS = ("norm", "change", "ratio_min", "ratio_max")

Change = TypeVar("Change", MatrixChange, VectorChange)


@dataclass(frozen=True)
class KeptMatrix:
    """What later comparisons need of one matrix of the baseline; tensors are float32 on its device."""

    row_norms: Tensor
    column_norms: Tensor
    direction: Tensor

    def on(self, device: torch.device) -> KeptMatrix:
        """Return it where a subject has its matrix: tying a head to the embedding moves it to the embedding's device,
        and a checkpoint may be divided among devices in other places than its baseline."""
        return KeptMatrix(self.row_norms.to(device), self.column_norms.to(device), self.direction.to(device))


@dataclass(frozen=True)
class SpectraMeasure:
    """The spectra of one model.

    Attributes:
        contract: how they were measured.
        evidence: the comparison with the baseline; of the baseline itself, everything is ``same``.
        kept_matrices: by label; of a baseline only.
        kept_vectors: values by name, float32 on the device; of a baseline only.
        shapes: shape of every parameter; of a baseline only.
    """

    contract: JsonObject
    evidence: SpectralEvidence
    kept_matrices: Mapping[str, KeptMatrix] = field(default_factory=dict)
    kept_vectors: Mapping[str, Tensor] = field(default_factory=dict)
    shapes: Mapping[str, torch.Size] = field(default_factory=dict)


def measure_spectra(
    model: PreTrainedModel,
    layout: ModelLayout,
    contract: JsonObject,
    *,
    baseline: SpectraMeasure | None,
    changed: Collection[str] | None,
) -> SpectraMeasure:
    """Measure the weights of ``model``, and compare them with those of its baseline.

    Args:
        model: baseline or subject.
        layout: structure of the BASELINE.
        contract: see :func:`pytest_proofpack.guards.spectral.measurement_contract`.
        baseline: the baseline's measure; None if ``model`` is the baseline.
        changed: parameters that may differ from the baseline's; all others of the same shape, or with rows added to
            it, are known to be equal and are not looked at. None: measure everything.

    Raises:
        EvaluationError: ``baseline`` was measured by another contract.
        ConfigurationError: a parameter is not in memory.
    """
    with torch.inference_mode():
        if baseline is None:
            return _measure_baseline(model, layout, contract)
        if baseline.contract != contract:
            raise EvaluationError(
                "The baseline's spectra were measured by another contract "
                f"({contract_hash(baseline.contract)}, not {contract_hash(contract)}). Measure the baseline anew."
            )
        return _measure_subject(model, layout, baseline, changed)


def _measure_baseline(model: PreTrainedModel, layout: ModelLayout, contract: JsonObject) -> SpectraMeasure:
    parameters = {name: model.get_parameter(name) for name in layout.groups}
    views, vector_names = matrices_and_vectors(model, layout, parameters)
    kept: dict[str, KeptMatrix] = {}
    measured: list[tuple[list[str], Tensor]] = []
    for group in _batches(views):
        batch = _stack(group)
        rows, columns = row_and_column_norms(batch)
        start = random_start(batch.shape[2], contract["seed"], contract["baseline_block"], batch.device)
        sigma, directions = leading_singular_pairs(batch, start, contract["baseline_iterations"])
        labels = [view.label for view in group]
        measured.append((labels, torch.stack((sigma, rows.norm(dim=1)), dim=1)))
        kept |= {label: KeptMatrix(*own) for label, *own in zip(labels, rows, columns, directions, strict=True)}
    values = {name: parameters[name].detach().to(torch.float32, copy=True).flatten() for name in vector_names}
    measured += [([name], vector.norm().reshape(1, 1)) for name, vector in values.items()]
    numbers = _fetch(measured, contract)
    matrices = tuple(MatrixChange(view.label, view.group.value, *_base_state(numbers[view.label])) for view in views)
    vectors = tuple(
        VectorChange(name, parameter_group.value, state, _is_gain(model, name, parameter_group), *norm)
        for name, parameter_group, (state, *norm) in (
            (name, layout.groups[name], _base_state(numbers[name])) for name in vector_names
        )
    )
    evidence = SpectralEvidence(contract, contract_hash(contract), matrices, vectors)
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    return SpectraMeasure(contract, evidence, kept, values, shapes)


def _measure_subject(
    model: PreTrainedModel, layout: ModelLayout, baseline: SpectraMeasure, changed: Collection[str] | None
) -> SpectraMeasure:
    # Under all names: an untied head may have become the embedding, a tied one a parameter of its own.
    parameters = dict(model.named_parameters(remove_duplicate=False))
    present = [name for name in baseline.shapes if name in parameters]
    reshaped = {name for name in present if parameters[name].shape != baseline.shapes[name]}
    grown = {name for name in reshaped if rows_added(baseline.shapes[name], parameters[name].shape)}
    looked_at = [name for name in present if changed is None or name in changed or name in reshaped - grown]
    comparable = [
        name
        for name in looked_at
        if name not in reshaped or _has_common_part(layout, name, parameters[name].shape, baseline.shapes[name])
    ]
    views, vector_names = matrices_and_vectors(model, layout, comparable)
    views = [view for view in views if view.label in baseline.kept_matrices]
    vectors = {name: parameters[name] for name in vector_names if name in baseline.kept_vectors}
    measured = [*_compare_matrices(views, baseline), *_compare_vectors(vectors, baseline)]
    numbers = _fetch(measured, baseline.contract)
    same = set(present) - set(looked_at)
    before = baseline.evidence
    evidence = replace(
        before,
        matrices=tuple(_updated(own, numbers, _MATRIX_NUMBERS, own.parameter in same) for own in before.matrices),
        vectors=tuple(_updated(own, numbers, _numbers_of(own), own.name in same) for own in before.vectors),
        added=tuple(_added(parameters, present)),
        reshaped=tuple(name for name in present if name in reshaped),
    )
    return SpectraMeasure(baseline.contract, evidence)


def _compare_matrices(views: Sequence[MatrixView], baseline: SpectraMeasure) -> Iterator[tuple[list[str], Tensor]]:
    """Yield labels of a batch and its numbers, shape (matrices, 6), see ``_MATRIX_NUMBERS``."""
    contract = baseline.contract
    for group in _batches([_cropped(view, baseline) for view in views]):
        batch = _stack(group)
        kept = [baseline.kept_matrices[view.label].on(batch.device) for view in group]
        height, width = group[0].shape
        rows, columns = row_and_column_norms(batch)
        sigma = largest_by_power_iteration(
            batch,
            torch.stack([own.direction[:width] for own in kept]),
            random_start(width, contract["seed"], contract["random_starts"], batch.device),
            contract["iterations"],
        )
        numbers = [sigma, rows.norm(dim=1)]
        for now, before, entries in (
            (rows, [own.row_norms[:height] for own in kept], width),
            (columns, [own.column_norms[:width] for own in kept], height),
        ):
            ratios = _extreme_ratios(now, torch.stack(before), contract["row_floor"])
            numbers += ratios if entries >= contract["min_entries"] else map(torch.ones_like, ratios)
        yield [view.label for view in group], torch.stack(numbers, dim=1)


def _compare_vectors(vectors: Mapping[str, Tensor], baseline: SpectraMeasure) -> Iterator[tuple[list[str], Tensor]]:
    """Yield names of a batch and its numbers, shape (vectors, 4), see ``_VECTOR_NUMBERS``."""
    floor = baseline.contract["row_floor"]
    groups = defaultdict(list)
    for name, parameter in vectors.items():
        kept = baseline.kept_vectors[name].to(parameter.device)
        length = min(parameter.numel(), kept.numel())
        groups[parameter.device, length].append((name, parameter.detach().flatten()[:length].float(), kept[:length]))
    for group in groups.values():
        names, now, before = zip(*group, strict=True)
        values, known = torch.stack(now), torch.stack(before)
        change = (values - known).abs().amax(dim=1) / known.abs().amax(dim=1).clamp(min=_TINY)
        ratios = _extreme_ratios(values.abs(), known.abs(), floor)
        yield list(names), torch.stack((values.norm(dim=1), change.clamp(max=_LARGEST_RATIO), *ratios), dim=1)


def _extreme_ratios(now: Tensor, before: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest quotient of norms, each of shape (matrices,).

    A norm that is small in the baseline, at most ``floor`` times the median, says little by its quotient: it is left
    out of the smallest, and measured by the median in the largest. Both are 1 where nothing can be compared.

    Args:
        now: norms of the subject, shape (matrices, norms).
        before: norms of the baseline.
        floor: relative to the median.
    """
    # Sorted, because the median of torch along a dimension is not deterministic on CUDA.
    median = before.sort(dim=1).values[:, (before.shape[1] - 1) // 2].unsqueeze(1)
    ordinary = before > floor * median
    scale = torch.where(ordinary, before, median)
    ratios = torch.where(scale > 0, now / scale, 1.0).clamp(max=_LARGEST_RATIO)
    smallest = torch.where(ordinary, ratios, torch.inf).amin(dim=1)
    return torch.where(smallest.isposinf(), 1.0, smallest), ratios.amax(dim=1)


def _has_common_part(layout: ModelLayout, name: str, now: torch.Size, before: torch.Size) -> bool:
    """Tell whether a parameter of another shape can be compared in the rows and columns that both have."""
    return len(now) == len(before) <= 2 and name not in layout.qkv


def _cropped(view: MatrixView, baseline: SpectraMeasure) -> MatrixView:
    kept = baseline.kept_matrices[view.label]
    height, width = kept.row_norms.numel(), kept.column_norms.numel()
    return view if view.shape == (height, width) else replace(view, tensor=view.tensor[:height, :width])


def _batches(views: Iterable[MatrixView]) -> Iterator[list[MatrixView]]:
    """Yield groups of views of one shape on one device, each of bounded size."""
    groups = defaultdict(list)
    for view in views:
        groups[view.tensor.device, view.shape].append(view)
    for (device, shape), group in groups.items():
        size = max(1, batch_elements(device) // math.prod(shape))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _stack(views: Sequence[MatrixView]) -> Tensor:
    """Return matrices of one shape as one tensor, which may share the storage of a single one.

    In float32, but as it is stored a matrix that is larger than a batch, and on an accelerator all that are bfloat16.
    """
    shape, device = views[0].shape, views[0].tensor.device
    stored = {view.tensor.dtype for view in views}
    dtype = torch.bfloat16 if stored == {torch.bfloat16} and device.type != "cpu" else torch.float32
    if math.prod(shape) > batch_elements(device):
        return views[0].tensor.detach().reshape(1, *shape)
    if len(views) == 1:
        return views[0].tensor.detach().to(dtype).reshape(1, *shape)
    batch = torch.empty(len(views), *shape, dtype=dtype, device=device)
    for place, view in zip(batch, views, strict=True):
        place.view(view.tensor.shape).copy_(view.tensor)
    return batch


def _fetch(measured: Iterable[tuple[list[str], Tensor]], contract: JsonObject) -> dict[str, list[float]]:
    """Bring numbers from the device when all have been launched, rounded to the contract's significant digits."""
    launched = list(measured)
    decimals = contract["significant_digits"] - 1
    return {
        name: [float(f"{value:.{decimals}e}") for value in row]
        for names, numbers in launched
        for name, row in zip(names, numbers.tolist(), strict=True)
    }


def _base_state(numbers: Sequence[float]) -> tuple[str, *tuple[float, ...]]:
    """Return the state of a tensor of the baseline, equal to itself, and its numbers if they are finite."""
    return (SAME, *numbers) if all(map(math.isfinite, numbers)) else (SAME,)


def _updated(change: Change, numbers: Mapping[str, Sequence[float]], keys: Sequence[str], is_same: bool) -> Change:
    """Return the entry of the baseline with what was measured on the subject."""
    if is_same:
        return change
    if change.name not in numbers:
        return replace(change, state=MISSING)
    own = numbers[change.name]
    if not (change.base_is_finite and all(map(math.isfinite, own))):
        return replace(change, state=NOT_FINITE)
    values: dict[str, Any] = dict(zip(keys, own, strict=False))
    return replace(change, state=MEASURED, **values)


def _numbers_of(vector: VectorChange) -> Sequence[str]:
    """Return the names of the numbers that a vector carries: quotients of biases, which may be zero, say nothing."""
    return _VECTOR_NUMBERS if vector.gain else _VECTOR_NUMBERS[:2]


def _is_gain(model: PreTrainedModel, name: str, parameter_group: ParameterGroup) -> bool:
    """Tell whether a parameter multiplies: those of norms do, except the one that its owner calls its bias."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return parameter_group is ParameterGroup.NORM and getattr(owner, "bias", None) is not model.get_parameter(name)


def _added(parameters: Mapping[str, Tensor], present: Iterable[str]) -> Iterator[str]:
    """Yield the parameters that are none of the baseline's, under any name."""
    known = {id(parameters[name]) for name in present}
    for name, parameter in parameters.items():
        if id(parameter) not in known:
            known.add(id(parameter))
            yield name
