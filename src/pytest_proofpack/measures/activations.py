"""Activations at the branches of a model, reduced to a few numbers inside forward hooks.

One forward of the model's body over a handful of calibration windows, or a forward pass that somebody makes anyway.
Each attention or feed-forward branch leaves only the projection of its whitened output on a small Krylov space and its
variance; no more outputs are held than an accelerator projects together, nothing waits for the device before the end,
and no large matrix is decomposed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.activations import (
    ActivationFacts,
    BranchActivation,
    State,
    calibration_windows,
)
from pytest_proofpack.measures.krylov import krylov_projection, largest_from_projection
from pytest_proofpack.measures.routers import router_facts, router_observers
from pytest_proofpack.models.forward import BatchSize, default_batch_size, window_losses
from pytest_proofpack.models.layout import Branch, ModelLayout, input_embedding

Windows = NDArray[np.integer]
_Hook = Callable[[nn.Module, Any, Any], Any]

_KRYLOV_ELEMENTS = 2**27
"""On an accelerator, outputs of up to this many float32 elements (512 MB) are projected together."""
_QUEUED_ELEMENTS = {"cpu": 0}
"""Where it is another number: a CPU has no launches to save."""


@dataclass(frozen=True)
class Whitening:
    """Statistics of one branch's output over the baseline's calibration tokens, on the branch's device.

    Attributes:
        mean, deviation: per feature, float32, shape (features,); deviations are positive.
    """

    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class ActivationMeasure:
    """What was measured on one model.

    Attributes:
        facts: what guards compare and certificates record.
        whitening: the baseline's statistics by branch, by which every subject is whitened.
    """

    facts: ActivationFacts
    whitening: Mapping[str, Whitening]


def measure_activations(
    model: PreTrainedModel,
    layout: ModelLayout,
    windows: Windows,
    contract: JsonObject,
    *,
    baseline: ActivationMeasure | None = None,
) -> ActivationMeasure:
    """Measure a model's branches and routers on the calibration windows.

    Args:
        model: in evaluation mode; unchanged afterwards.
        layout: the baseline's; a branch of it that the model lacks is recorded as missing.
        windows: token ids, shape (windows, seq_len), of which the first that the contract counts are used.
        contract: see :func:`pytest_proofpack.guards.activations.activation_contract`.
        baseline: measured under the same contract on the same windows; None if ``model`` is the baseline.

    Raises:
        EvaluationError: too few windows, other windows or another contract than the baseline's, or the forward pass
            fails. Activations that are not finite are recorded, not raised.
    """
    watch = ActivationWatch(model, layout, windows, contract, baseline=baseline)
    with watch.watching():
        _run_body(model, windows[: watch.windows])
    return watch.result()


class ActivationWatch:
    """Hooks on the branches and routers of a model that measure whatever forward pass runs over the windows.

    Only the first ``windows`` windows of a batch count, and a batch of fewer is not looked at: see :attr:`missed`.

    Attributes:
        windows: how many calibration windows the contract asks for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layout: ModelLayout,
        windows: Windows,
        contract: JsonObject,
        *,
        baseline: ActivationMeasure | None = None,
    ) -> None:
        """Prepare the hooks. See :func:`measure_activations` for arguments and errors."""
        chosen = _calibration_windows(model, windows, contract)
        digest = hashlib.sha256(np.ascontiguousarray(chosen, dtype="<i8").tobytes()).hexdigest()
        if baseline is not None and (baseline.facts.contract, baseline.facts.windows_sha256) != (contract, digest):
            raise EvaluationError(
                f"{_name(model)}: the baseline was measured on other calibration windows or under another contract. "
                "Measure it anew on these."
            )
        self.windows = len(chosen)
        self._model, self._layout, self._contract, self._digest = model, layout, contract, digest
        self._known = None if baseline is None else baseline.whitening
        self._queue = _KrylovQueue(contract["estimator"])
        self._observers = {
            branch.name: _BranchObserver(
                contract,
                self._queue,
                None if self._known is None else self._known.get(branch.name),
                tokens=chosen.size,
                needs_whitening=baseline is not None,
            )
            for branch in layout.branches
        }
        self._routers = router_observers(model, layout, chosen.size)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hook the model while the body runs a forward pass whose first windows are the calibration windows."""
        with _hooked(self._model, {**self._observers, **self._routers}):
            yield

    @property
    def missed(self) -> bool:
        """Whether branches were called, but never with all calibration windows in one batch."""
        return any(observer.called and observer.state is State.MISSING for observer in self._observers.values())

    def result(self) -> ActivationMeasure:
        """Return what was seen; a branch that was not called is recorded as missing."""
        edges, variances = _collect(self._queue, list(self._observers.values()), draws=1)
        facts = ActivationFacts(
            contract=self._contract,
            windows_sha256=self._digest,
            branches={
                branch.name: _branch_fact(branch, self._observers[branch.name], float(edge), float(variance))
                for branch, edge, variance in zip(self._layout.branches, edges[:, 0], variances[:, 0], strict=True)
            },
            routers=router_facts(self._model, self._routers),
        )
        if self._known is not None:
            return ActivationMeasure(facts, self._known)
        found = {name: own for name, observer in self._observers.items() if (own := observer.whitening) is not None}
        return ActivationMeasure(facts, found)


def null_edge_ratios(
    model: PreTrainedModel,
    layout: ModelLayout,
    draws: Windows,
    reference: ActivationMeasure,
    batch_size: int | None = None,
) -> dict[str, tuple[float, ...]]:
    """Return the RMT guard's statistic between draws of windows of one unedited model, for calibration.

    Per family and draw: the largest ln(r_draw / r_reference) over the family's branches, whitened by the reference's
    statistics. Several draws share a forward pass where the device's batch has room.

    Args:
        model: the unedited model.
        layout: its structure.
        draws: token ids, shape (draws, windows, seq_len), none of them the reference's windows. A draw has as many
            windows as the contract counts: 200 preview windows make a reference and 24 draws.
        reference: the model's own measurement, as a baseline.
        batch_size: windows per forward pass, but at least those of one draw; by default what suits the device.

    Raises:
        EvaluationError: ``draws`` has another shape, a branch of the unedited model is missing or not finite, or the
            forward pass fails.
    """
    contract = reference.facts.contract
    count = calibration_windows(contract, draws.shape[-1])
    if draws.ndim != 3 or draws.shape[1] != count or not len(draws):
        raise EvaluationError(f"{_name(model)}: null draws need shape (draws, {count}, seq_len), found {draws.shape}.")
    edges_before = {name: own.edge for name, own in reference.facts.branches.items()}
    if None in edges_before.values():
        raise EvaluationError(f"{_name(model)}: a branch of the unedited model is not finite; check its weights.")
    # A silent branch, for one of a layer that was added and not yet trained, is silent on every text.
    branches = [branch for branch in layout.branches if edges_before[branch.name]]
    per_pass = max(1, (batch_size or default_batch_size(draws.shape[2], model.device)) // count)
    parts = []
    for start in range(0, len(draws), per_pass):
        batch = draws[start : start + per_pass]
        queue = _KrylovQueue(contract["estimator"])
        observers = {
            branch.name: _BranchObserver(
                contract, queue, reference.whitening[branch.name], tokens=batch.size, draws=len(batch)
            )
            for branch in branches
        }
        with _hooked(model, observers):
            _run_body(model, batch.reshape(-1, batch.shape[2]))
        parts.append(_collect(queue, list(observers.values()), draws=len(batch))[0])
    edges = np.concatenate(parts, axis=1)
    if not np.all(np.isfinite(edges) & (edges > 0)):
        raise EvaluationError(f"{_name(model)}: activations of the unedited model are not finite; check its weights.")
    known = np.array([edges_before[branch.name] for branch in branches], dtype=np.float64)
    logs = np.log(edges / known[:, None])
    families = np.array([branch.family.value for branch in branches])
    return {str(family): tuple(logs[families == family].max(axis=0).tolist()) for family in np.unique(families)}


def scaled_losses(
    model: PreTrainedModel,
    windows: Windows,
    scales: Mapping[str, float],
    contract: JsonObject,
    batch_size: int | BatchSize | None = None,
) -> NDArray[np.float64]:
    """Return the model's loss on the calibration windows with the outputs of branches multiplied, shape (windows,).

    For the predictive gate of the variance guard; the multiplication lives in hooks that are gone afterwards.

    Args:
        model: in evaluation mode.
        windows: as for :func:`measure_activations`.
        scales: by branch; paths that the model lacks are left out.
        contract: the measurement contract.
        batch_size: windows per forward pass; by default what suits the device.

    Raises:
        EvaluationError: as :func:`pytest_proofpack.models.forward.window_losses`.
    """
    chosen = _calibration_windows(model, windows, contract)
    size = batch_size or default_batch_size(chosen.shape[1], model.device)
    with _hooked(model, {name: _scaling_hook(scale) for name, scale in scales.items()}):
        return window_losses(model, chosen, batch_size=size)


class _KrylovQueue:
    """Whitened outputs that wait for their Krylov projection, until there are enough to keep the device busy.

    Lanczos' method is many small steps, whose launches would cost more than their work for one branch at a time.
    """

    def __init__(self, estimator: JsonObject) -> None:
        self._estimator = estimator
        self._waiting: list[tuple[_BranchObserver, Tensor]] = []

    def add(self, observer: _BranchObserver, white: Tensor) -> None:
        """Queue one branch's whitened output, shape (draws, tokens, features)."""
        if self._waiting and _place(self._waiting[0][1]) != _place(white):
            self.flush()
        self._waiting.append((observer, white))
        if (len(self._waiting) + 1) * white.numel() > _QUEUED_ELEMENTS.get(white.device.type, _KRYLOV_ELEMENTS):
            self.flush()

    def flush(self) -> None:
        """Project everything that waits and hand the projections to their observers."""
        if not self._waiting:
            return
        observers, outputs = zip(*self._waiting, strict=True)
        self._waiting.clear()
        white = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        projections = krylov_projection(white, self._estimator["iterations"], self._estimator["seed"])
        edge = math.sqrt(white.shape[1]) + math.sqrt(white.shape[2])
        parts = torch.split(projections / edge**2, len(outputs[0]))
        for observer, projection in zip(observers, parts, strict=True):
            observer.projection = projection


def _place(tensor: Tensor) -> tuple[torch.Size, torch.device]:
    return tensor.shape, tensor.device


class _BranchObserver:
    """A forward hook that reduces one branch's output, and holds the result on the branch's device.

    Attributes:
        whitening: the statistics used; the output's own if none were given.
        state: missing until the hook was called with enough tokens.
        called: whether it was called at all.
        projection: on the Krylov space, in units of the noise's edge, shape (draws, iterations, iterations).
        variance: shape (draws,).
    """

    def __init__(
        self,
        contract: JsonObject,
        queue: _KrylovQueue,
        whitening: Whitening | None,
        *,
        tokens: int,
        needs_whitening: bool = True,
        draws: int = 1,
    ) -> None:
        self.whitening = whitening
        self.state = State.MISSING
        self.called = False
        self.projection: Tensor | None = None
        self.variance: Tensor | None = None
        self._floor = contract["whitening"]["deviation_floor"]
        self._queue = queue
        self._tokens = tokens
        self._draws = draws
        self._needs_whitening = needs_whitening

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self.called = True
        output = output[0] if isinstance(output, tuple) else output
        features = output.shape[-1]
        rows = output.detach().reshape(-1, features)
        if len(rows) < self._tokens:
            return  # a trial of a few tokens, or a batch too small for all windows
        activations = rows[: self._tokens].float().reshape(self._draws, -1, features)
        if self.whitening is None and not self._needs_whitening:
            self.whitening = _statistics(activations[0], self._floor)
        if self.whitening is None or self.whitening.mean.shape != (features,):
            self.state = State.RESHAPED
            return
        self.state = State.MEASURED
        self.variance = activations.var(dim=1, correction=0).mean(dim=1)
        mean, deviation = (own.to(activations.device) for own in (self.whitening.mean, self.whitening.deviation))
        self._queue.add(self, (activations - mean) / deviation)


def _statistics(activations: Tensor, floor: float) -> Whitening:
    """Return mean and deviation of each feature, shape of ``activations`` (tokens, features).

    A feature that hardly moves would turn rounding noise into an edge, so deviations are at least ``floor`` times
    their root mean square; in a branch without any they are one.
    """
    deviation, mean = torch.std_mean(activations, dim=0, correction=0)
    deviation = torch.maximum(deviation, floor * deviation.square().mean().sqrt())
    return Whitening(mean, torch.where(deviation > 0, deviation, 1.0))


def _collect(
    queue: _KrylovQueue, observers: list[_BranchObserver], draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fetch all results at once; return edges and variances, shape (observers, draws), NaN where there is none."""
    queue.flush()
    edges = np.full((len(observers), draws), np.nan)
    variances = edges.copy()
    taken = [index for index, observer in enumerate(observers) if observer.state is State.MEASURED]
    projections = [own for index in taken if (own := observers[index].projection) is not None]
    found = [own for index in taken if (own := observers[index].variance) is not None]
    if taken:
        device = found[0].device
        edges[taken] = largest_from_projection(torch.stack([own.to(device) for own in projections]).cpu()).numpy()
        variances[taken] = torch.stack([own.to(device) for own in found]).cpu().double().numpy()
    return edges, variances


def _branch_fact(branch: Branch, observer: _BranchObserver, edge: float, variance: float) -> BranchActivation:
    state = observer.state
    if state is State.MEASURED and not (math.isfinite(edge) and math.isfinite(variance)):
        state = State.NON_FINITE
    if state is not State.MEASURED:
        return BranchActivation(branch.family.value, branch.block, state)
    return BranchActivation(branch.family.value, branch.block, state, edge, variance)


def _calibration_windows(model: PreTrainedModel, windows: Windows, contract: JsonObject) -> Windows:
    count = calibration_windows(contract, windows.shape[-1])
    if windows.ndim != 2 or len(windows) < count:
        raise EvaluationError(
            f"{_name(model)}: {count} calibration windows are needed, but windows of shape {windows.shape} were "
            "given. Use more text or fewer calibration windows."
        )
    return windows[:count]


def _run_body(model: PreTrainedModel, windows: Windows) -> None:
    """Run the model without its head on all windows at once.

    One batch, because sigma_max of all tokens is not to be had from parts of them.
    """
    embedding = input_embedding(model)
    if windows.min() < 0 or windows.max() >= embedding.num_embeddings:
        raise EvaluationError(f"{_name(model)}: the windows hold token ids that it does not embed.")
    ids = torch.from_numpy(windows.astype(np.int64)).to(embedding.weight.device)
    try:
        with torch.inference_mode():
            model.base_model(input_ids=ids, use_cache=False)
    except (RuntimeError, ValueError, IndexError) as error:
        raise EvaluationError(
            f"{_name(model)}: measuring activations on {len(windows)} windows of {windows.shape[1]} tokens failed "
            f"({type(error).__name__}: {error}). If memory ran out, use shorter windows or a larger device."
        ) from error


@contextlib.contextmanager
def _hooked(model: nn.Module, hooks: Mapping[str, _Hook]) -> Iterator[None]:
    """Hook the modules at these paths while the body runs; paths that the model lacks are left out."""
    modules = dict(model.named_modules())
    with contextlib.ExitStack() as stack:
        for name in hooks.keys() & modules.keys():
            stack.callback(modules[name].register_forward_hook(hooks[name]).remove)
        yield


def _scaling_hook(scale: float) -> _Hook:
    """Return a hook that multiplies a module's output, or the first entry of it if it is a tuple."""

    def multiply(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (output[0] * scale, *output[1:]) if isinstance(output, tuple) else output * scale

    return multiply


def _name(model: PreTrainedModel) -> str:
    return model.name_or_path or type(model).__name__
