"""What is kept of one sublayer's output: the projection of the whitened output on a small Krylov space, its variance.

No more outputs are held than an accelerator projects together, nothing waits for the device before the end, and no
large matrix is decomposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.activations import State
from pytest_proofpack.measures.krylov import krylov_projection, largest_from_projection
from pytest_proofpack.models.probing import first_tensor

_KRYLOV_ELEMENTS = 2**27
"""On an accelerator, outputs of up to this many float32 elements (512 MB) are projected together."""
_QUEUED_ELEMENTS = {"cpu": 0}
"""Where it is another number: a CPU has no launches to save."""


@dataclass(frozen=True)
class Whitening:
    """Statistics of one sublayer's output over the baseline's calibration tokens, on the sublayer's device.

    Attributes:
        mean, deviation: per feature, float32, shape (features,); deviations are positive.
    """

    mean: Tensor
    deviation: Tensor


class KrylovQueue:
    """Whitened outputs that wait for their Krylov projection, until there are enough to keep the device busy.

    Lanczos' method is many small steps, whose launches would cost more than their work for one sublayer at a time.
    """

    def __init__(self, estimator: JsonObject) -> None:
        self._estimator = estimator
        self._waiting: list[tuple[SublayerObserver, Tensor]] = []

    def add(self, observer: SublayerObserver, white: Tensor) -> None:
        """Queue one sublayer's whitened output, shape (draws, tokens, features)."""
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


class SublayerObserver:
    """A forward hook that reduces one sublayer's output, and holds the result on the sublayer's device.

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
        queue: KrylovQueue,
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
        """Reduce one output; the hook that is called after the module."""
        self.called = True
        output = first_tensor(output)
        if output is None:
            return
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
    their root mean square; in a sublayer without any they are one.
    """
    deviation, mean = torch.std_mean(activations, dim=0, correction=0)
    deviation = torch.maximum(deviation, floor * deviation.square().mean().sqrt())
    return Whitening(mean, torch.where(deviation > 0, deviation, 1.0))


def collect(
    queue: KrylovQueue, observers: list[SublayerObserver], draws: int
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
