"""Activations at the sublayers of a model, watched while it runs, and reduced to a few numbers inside forward hooks.

One forward of the model's body over a handful of calibration windows, or a forward pass that somebody makes anyway.
What is kept of a sublayer's output: see :mod:`pytest_proofpack.measures.sublayers`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.activations import ActivationFacts, State, SublayerActivation, calibration_windows
from pytest_proofpack.measures.hooks import Hook, Windows, hooked, model_name, run_body
from pytest_proofpack.measures.responses import ResponseWatch
from pytest_proofpack.measures.routers import router_facts, router_hooks, router_observers
from pytest_proofpack.measures.sublayers import KrylovQueue, SublayerObserver, Whitening, collect
from pytest_proofpack.models.forward import BatchSize, default_batch_size, window_losses
from pytest_proofpack.models.layout import ModelLayout, Sublayer


@dataclass(frozen=True)
class ActivationMeasure:
    """What was measured on one model.

    Attributes:
        facts: what guards compare and certificates record.
        whitening: the baseline's statistics by sublayer, by which every subject is whitened.
        sketches: what the sublayers answered, see :mod:`pytest_proofpack.measures.responses`.
    """

    facts: ActivationFacts
    whitening: Mapping[str, Whitening]
    sketches: Mapping[str, Tensor] = field(default_factory=dict)


def measure_activations(
    model: PreTrainedModel,
    layout: ModelLayout,
    windows: Windows,
    contract: JsonObject,
    *,
    baseline: ActivationMeasure | None = None,
    embedding: Tensor | None = None,
) -> ActivationMeasure:
    """Measure a model's sublayers and routers on the calibration windows.

    Args:
        model: in evaluation mode; unchanged afterwards.
        layout: the baseline's; a sublayer of it that the model lacks is recorded as missing.
        windows: token ids, shape (windows, seq_len), of which the first that the contract counts are used.
        contract: see :func:`pytest_proofpack.guards.activations.activation_contract`.
        baseline: measured under the same contract on the same windows; None if ``model`` is the baseline.
        embedding: dense values of the model's embeddings, where its own are packed.

    Raises:
        EvaluationError: too few windows, other windows or another contract than the baseline's, or the forward pass
            fails. Activations that are not finite are recorded, not raised.
    """
    watch = ActivationWatch(model, layout, windows, contract, baseline=baseline, embedding=embedding)
    with watch.watching():
        run_body(model, windows[: watch.windows])
    return watch.result()


class ActivationWatch:
    """Hooks on the sublayers and routers of a model that measure whatever forward pass runs over the windows.

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
        embedding: Tensor | None = None,
    ) -> None:
        """Prepare the hooks. See :func:`measure_activations` for arguments and errors."""
        chosen = _calibration_windows(model, windows, contract)
        digest = hashlib.sha256(np.ascontiguousarray(chosen, dtype="<i8").tobytes()).hexdigest()
        if baseline is not None and (baseline.facts.contract, baseline.facts.windows_sha256) != (contract, digest):
            raise EvaluationError(
                f"{model_name(model)}: the baseline was measured on other calibration windows or under another "
                "contract. Measure it anew on these."
            )
        self.windows = len(chosen)
        self._model, self._layout, self._contract, self._digest = model, layout, contract, digest
        self._known = None if baseline is None else baseline.whitening
        self._queue = KrylovQueue(contract["estimator"])
        self._observers = {
            sublayer.name: SublayerObserver(
                contract,
                self._queue,
                None if self._known is None else self._known.get(sublayer.name),
                tokens=chosen.size,
                needs_whitening=baseline is not None,
            )
            for sublayer in layout.sublayers
        }
        self._routers = router_observers(model, layout, chosen.size)
        self._responses = ResponseWatch(model, layout, chosen, embedding)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hook the model while the body runs a forward pass whose first windows are the calibration windows."""
        hooks: dict[str, Hook] = {**self._observers, **router_hooks(self._layout, self._routers)}
        with hooked(self._model, hooks), hooked(self._model, self._responses.hooks):
            yield

    @property
    def missed(self) -> bool:
        """Whether sublayers were called, but never with all calibration windows in one batch."""
        return any(observer.called and observer.state is State.MISSING for observer in self._observers.values())

    def result(self) -> ActivationMeasure:
        """Return what was seen; a sublayer that was not called is recorded as missing."""
        edges, variances = collect(self._queue, list(self._observers.values()), draws=1)
        facts = ActivationFacts(
            contract=self._contract,
            windows_sha256=self._digest,
            sublayers={
                sublayer.name: _sublayer_fact(sublayer, self._observers[sublayer.name], float(edge), float(variance))
                for sublayer, edge, variance in zip(self._layout.sublayers, edges[:, 0], variances[:, 0], strict=True)
            },
            routers=router_facts(self._model, self._routers),
        )
        if self._known is not None:
            return ActivationMeasure(facts, self._known, self._responses.sketches)
        found = {name: own for name, observer in self._observers.items() if (own := observer.whitening) is not None}
        return ActivationMeasure(facts, found, self._responses.sketches)


def scaled_losses(
    model: PreTrainedModel,
    windows: Windows,
    scales: Mapping[str, float],
    contract: JsonObject,
    batch_size: int | BatchSize | None = None,
) -> NDArray[np.float64]:
    """Return the model's loss on the calibration windows with the outputs of sublayers multiplied, shape (windows,).

    For the predictive gate of the variance guard; the multiplication lives in hooks that are gone afterwards.

    Args:
        model: in evaluation mode.
        windows: as for :func:`measure_activations`.
        scales: by sublayer; paths that the model lacks are left out.
        contract: the measurement contract.
        batch_size: windows per forward pass; by default what suits the device.

    Raises:
        EvaluationError: as :func:`pytest_proofpack.models.forward.window_losses`.
    """
    chosen = _calibration_windows(model, windows, contract)
    size = batch_size or default_batch_size(chosen.shape[1], model.device)
    with hooked(model, {name: _scaling_hook(scale) for name, scale in scales.items()}):
        return window_losses(model, chosen, batch_size=size)


def _sublayer_fact(sublayer: Sublayer, observer: SublayerObserver, edge: float, variance: float) -> SublayerActivation:
    state = observer.state
    if state is State.MEASURED and not (math.isfinite(edge) and math.isfinite(variance)):
        state = State.NON_FINITE
    if state is not State.MEASURED:
        return SublayerActivation(sublayer.group.value, sublayer.block, state)
    return SublayerActivation(sublayer.group.value, sublayer.block, state, edge, variance)


def _calibration_windows(model: PreTrainedModel, windows: Windows, contract: JsonObject) -> Windows:
    count = calibration_windows(contract, windows.shape[-1])
    if windows.ndim != 2 or len(windows) < count:
        raise EvaluationError(
            f"{model_name(model)}: {count} calibration windows are needed, but windows of shape {windows.shape} were "
            "given. Ask for more preview windows."
        )
    return windows[:count]


def _scaling_hook(scale: float) -> Hook:
    """Return a hook that multiplies a module's output, or the first entry of it if it is a tuple or list."""

    def multiply(_module: nn.Module, _args: Any, output: Any) -> Any:
        if not isinstance(output, (tuple, list)):
            return output * scale
        entries = (output[0] * scale, *output[1:])
        return type(output)(*entries) if hasattr(output, "_fields") else type(output)(entries)

    return multiply
