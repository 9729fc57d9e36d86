"""Activations at the branches of a model, reduced to a few numbers inside forward hooks.

One forward of the model's body over a handful of calibration windows. Each attention or feed-forward branch leaves
only the projection of its whitened output on a small Krylov space and its variance; no branch's output outlives its
hook, nothing waits for the device before the end, and no large matrix is decomposed.
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

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.families import Branch, Family, ModelLayout, input_embedding
from pytest_proofpack.guards.activations import ActivationFacts, BranchActivation, RouterUsage, State
from pytest_proofpack.jsonio import JsonObject
from pytest_proofpack.losses import default_batch_size, window_losses
from pytest_proofpack.measures.krylov import krylov_projection, largest_from_projection

Windows = NDArray[np.integer]
_Hook = Callable[[nn.Module, Any, Any], Any]

_TOP_K_KEYS = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk")
"""What transformers' configurations call the number of experts per token."""


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
    chosen = _calibration_windows(model, windows, contract)
    digest = hashlib.sha256(np.ascontiguousarray(chosen, dtype="<i8").tobytes()).hexdigest()
    if baseline is not None and (baseline.facts.contract, baseline.facts.windows_sha256) != (contract, digest):
        raise EvaluationError(
            f"{_name(model)}: the baseline was measured on other calibration windows or under another contract. "
            "Measure it anew on these."
        )
    known = {} if baseline is None else baseline.whitening
    observers = {
        branch.name: _BranchObserver(contract, known.get(branch.name), needs_whitening=baseline is not None)
        for branch in layout.branches
    }
    top_k = _configured_top_k(model)
    routers = {name: _RouterObserver(_experts_beside(model, layout, name), top_k) for name in _router_modules(layout)}
    _run_body(model, chosen, {**observers, **routers})
    edges, variances = _collect(list(observers.values()), draws=1)
    facts = ActivationFacts(
        contract=contract,
        windows_sha256=digest,
        branches={
            branch.name: _branch_fact(branch, observers[branch.name], float(edge), float(variance))
            for branch, edge, variance in zip(layout.branches, edges[:, 0], variances[:, 0], strict=True)
        },
        routers=_router_facts(model, routers),
    )
    found = {name: own for name, observer in observers.items() if (own := observer.whitening) is not None}
    return ActivationMeasure(facts, found if baseline is None else known)


def null_edge_ratios(
    model: PreTrainedModel, layout: ModelLayout, draws: Windows, reference: ActivationMeasure
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

    Raises:
        EvaluationError: ``draws`` has another shape, a branch of the unedited model is missing or not finite, or the
            forward pass fails.
    """
    contract = reference.facts.contract
    count = int(contract["activation_sampling"]["windows"]["count"])
    if draws.ndim != 3 or draws.shape[1] != count or not len(draws):
        raise EvaluationError(f"{_name(model)}: null draws need shape (draws, {count}, seq_len), found {draws.shape}.")
    edges_before = {name: own.edge for name, own in reference.facts.branches.items()}
    if None in edges_before.values():
        raise EvaluationError(f"{_name(model)}: a branch of the unedited model is not finite; check its weights.")
    # A silent branch, for one of a layer that was added and not yet trained, is silent on every text.
    branches = [branch for branch in layout.branches if edges_before[branch.name]]
    per_pass = max(1, default_batch_size(draws.shape[2], model.device) // count)
    parts = []
    for start in range(0, len(draws), per_pass):
        batch = draws[start : start + per_pass]
        observers = {
            branch.name: _BranchObserver(contract, reference.whitening[branch.name], draws=len(batch))
            for branch in branches
        }
        _run_body(model, batch.reshape(-1, batch.shape[2]), observers)
        parts.append(_collect(list(observers.values()), draws=len(batch))[0])
    edges = np.concatenate(parts, axis=1)
    if not np.all(np.isfinite(edges) & (edges > 0)):
        raise EvaluationError(f"{_name(model)}: activations of the unedited model are not finite; check its weights.")
    known = np.array([edges_before[branch.name] for branch in branches], dtype=np.float64)
    logs = np.log(edges / known[:, None])
    families = np.array([branch.family.value for branch in branches])
    return {str(family): tuple(logs[families == family].max(axis=0).tolist()) for family in np.unique(families)}


def scaled_losses(
    model: PreTrainedModel, windows: Windows, scales: Mapping[str, float], contract: JsonObject
) -> NDArray[np.float64]:
    """Return the model's loss on the calibration windows with the outputs of branches multiplied, shape (windows,).

    For the predictive gate of the variance guard; the multiplication lives in hooks that are gone afterwards.

    Args:
        model: in evaluation mode.
        windows: as for :func:`measure_activations`.
        scales: by branch; paths that the model lacks are left out.
        contract: the measurement contract.

    Raises:
        EvaluationError: as :func:`pytest_proofpack.losses.window_losses`.
    """
    chosen = _calibration_windows(model, windows, contract)
    with _hooked(model, {name: _scaling_hook(scale) for name, scale in scales.items()}):
        return window_losses(model, chosen, batch_size=default_batch_size(chosen.shape[1], model.device))


class _BranchObserver:
    """A forward hook that reduces one branch's output, and holds the result on the branch's device.

    Attributes:
        whitening: the statistics used; the output's own if none were given.
        state: missing until the hook was called.
        summary: shape (draws, iterations^2 + 1): the Krylov projection in units of the noise's edge, and the variance.
    """

    def __init__(
        self, contract: JsonObject, whitening: Whitening | None, *, needs_whitening: bool = True, draws: int = 1
    ) -> None:
        self.contract = contract
        self.whitening = whitening
        self.state = State.MISSING
        self.summary: Tensor | None = None
        self._draws = draws
        self._needs_whitening = needs_whitening

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        features = output.shape[-1]
        activations = output.detach().float().reshape(self._draws, -1, features)
        if self.whitening is None and not self._needs_whitening:
            self.whitening = _statistics(activations[0], self.contract["whitening"]["deviation_floor"])
        if self.whitening is None or self.whitening.mean.shape != (features,):
            self.state = State.RESHAPED
            return
        estimator = self.contract["estimator"]
        white = (activations - self.whitening.mean) / self.whitening.deviation
        edge = math.sqrt(white.shape[1]) + math.sqrt(features)
        projection = krylov_projection(white, estimator["iterations"], estimator["seed"]) / edge**2
        variance = activations.var(dim=1, correction=0).mean(dim=1, keepdim=True)
        self.summary = torch.cat((projection.flatten(1), variance), dim=1)
        self.state = State.MEASURED


def _statistics(activations: Tensor, floor: float) -> Whitening:
    """Return mean and deviation of each feature, shape of ``activations`` (tokens, features).

    A feature that hardly moves would turn rounding noise into an edge, so deviations are at least ``floor`` times
    their root mean square; in a branch without any they are one.
    """
    deviation, mean = torch.std_mean(activations, dim=0, correction=0)
    deviation = torch.maximum(deviation, floor * deviation.square().mean().sqrt())
    return Whitening(mean, torch.where(deviation > 0, deviation, 1.0))


def _collect(observers: list[_BranchObserver], draws: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fetch all summaries at once; return edges and variances, shape (observers, draws), NaN where there is none."""
    edges = np.full((len(observers), draws), np.nan)
    variances = edges.copy()
    taken = [index for index, observer in enumerate(observers) if observer.summary is not None]
    summaries = [summary for observer in observers if (summary := observer.summary) is not None]
    if summaries:
        stacked = torch.stack([summary.to(summaries[0].device) for summary in summaries]).cpu()
        side = math.isqrt(stacked.shape[-1] - 1)
        edges[taken] = largest_from_projection(stacked[..., :-1].reshape(-1, draws, side, side)).numpy()
        variances[taken] = stacked[..., -1].double().numpy()
    return edges, variances


def _branch_fact(branch: Branch, observer: _BranchObserver, edge: float, variance: float) -> BranchActivation:
    state = observer.state
    if state is State.MEASURED and not (math.isfinite(edge) and math.isfinite(variance)):
        state = State.NON_FINITE
    if state is not State.MEASURED:
        return BranchActivation(branch.family.value, branch.block, state)
    return BranchActivation(branch.family.value, branch.block, state, edge, variance)


class _RouterObserver:
    """A forward hook on a router that counts which experts it chooses, on the router's device.

    A router that returns indices tells top-k itself; one that returns logits only is taken at its configuration's word.
    """

    def __init__(self, experts: int, top_k: int | None) -> None:
        self.experts = experts
        self.top_k = top_k
        self.usage: Tensor | None = None

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        tensors = [value for value in (output if isinstance(output, tuple) else (output,)) if isinstance(value, Tensor)]
        chosen = next((value for value in tensors if not value.is_floating_point()), None)
        logits = next((value for value in tensors if value.shape[-1] == self.experts), None)
        if chosen is None and logits is not None:
            chosen = logits.topk(min(self.top_k or 1, self.experts), dim=-1).indices
        elif chosen is not None:
            self.top_k = int(chosen.shape[-1])
        if chosen is None:
            return
        # A comparison with every expert, not bincount, which waits for the device.
        experts = torch.arange(self.experts, device=chosen.device)
        self.usage = (chosen.reshape(-1, 1) == experts).sum(dim=0)


def _router_modules(layout: ModelLayout) -> list[str]:
    """Return the paths of the modules that own routers' parameters."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in layout.names(Family.ROUTER)))


def _experts_beside(model: PreTrainedModel, layout: ModelLayout, router: str) -> int:
    """Return how many experts the router's branch has: dimension of 3-D parameters, or length of a module list."""
    branch = next((own.name for own in layout.branches if router.startswith(f"{own.name}.")), "")
    module = dict(model.named_modules()).get(branch, nn.Module())
    fused = [int(parameter.shape[0]) for parameter in module.parameters() if parameter.ndim == 3]
    lists = [len(inner) for inner in module.modules() if isinstance(inner, nn.ModuleList)]
    return max([*fused, *lists], default=0)


def _configured_top_k(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config()
    values = (getattr(config, key, None) for key in _TOP_K_KEYS)
    return next((value for value in values if isinstance(value, int)), None)


def _router_facts(model: PreTrainedModel, observers: Mapping[str, _RouterObserver]) -> dict[str, RouterUsage]:
    """Return the facts about the routers that were called; their counts are fetched from the device together."""
    called = {name: usage for name, observer in observers.items() if (usage := observer.usage) is not None}
    if not called:
        return {}
    device = next(iter(called.values())).device
    counts = torch.cat([usage.to(device) for usage in called.values()]).tolist()
    facts, start = {}, 0
    for name, usage in called.items():
        matrix = next((own for own in model.get_submodule(name).parameters(recurse=False) if own.ndim == 2), None)
        facts[name] = RouterUsage(
            experts=observers[name].experts,
            top_k=observers[name].top_k,
            shape=() if matrix is None else tuple(matrix.shape),
            usage=tuple(counts[start : start + len(usage)]),
        )
        start += len(usage)
    return facts


def _calibration_windows(model: PreTrainedModel, windows: Windows, contract: JsonObject) -> Windows:
    count = int(contract["activation_sampling"]["windows"]["count"])
    if windows.ndim != 2 or len(windows) < count:
        raise EvaluationError(
            f"{_name(model)}: {count} calibration windows are needed, but windows of shape {windows.shape} were "
            "given. Use more text or fewer calibration windows."
        )
    return windows[:count]


def _run_body(model: PreTrainedModel, windows: Windows, hooks: Mapping[str, _Hook]) -> None:
    """Run the model without its head on all windows at once, watched by hooks.

    One batch, because sigma_max of all tokens is not to be had from parts of them.
    """
    embedding = input_embedding(model)
    if windows.min() < 0 or windows.max() >= embedding.num_embeddings:
        raise EvaluationError(f"{_name(model)}: the windows hold token ids that it does not embed.")
    ids = torch.from_numpy(windows.astype(np.int64)).to(embedding.weight.device)
    try:
        with torch.inference_mode(), _hooked(model, hooks):
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
