"""How much a model's sublayers differ from themselves: the RMT guard's statistic between texts of one model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.activations import calibration_windows
from pytest_proofpack.measures.activations import ActivationMeasure
from pytest_proofpack.measures.hooks import Windows, hooked, model_name, run_body
from pytest_proofpack.measures.sublayers import KrylovQueue, SublayerObserver, collect
from pytest_proofpack.models.forward import default_batch_size
from pytest_proofpack.models.layout import ModelLayout, Sublayer


def null_edge_ratios(
    model: PreTrainedModel,
    layout: ModelLayout,
    draws: Windows,
    reference: ActivationMeasure,
    batch_size: int | None = None,
) -> dict[str, tuple[float, ...]]:
    """Return the RMT guard's statistic between draws of windows of one unedited model, for calibration.

    Per group and draw: the largest ln(r_draw / r_reference) over the group's sublayers, whitened by the reference's
    statistics. Several draws share a forward pass where the device's batch has room.

    Args:
        model: the unedited model.
        layout: its structure.
        draws: token ids, shape (draws, windows, seq_len), none of them the reference's windows. A draw has as many
            windows as the contract counts: 200 preview windows make a reference and 24 draws.
        reference: the model's own measurement, as a baseline.
        batch_size: windows per forward pass, but at least those of one draw; by default what suits the device.

    Raises:
        EvaluationError: ``draws`` has another shape, a sublayer of the unedited model is missing or not finite, or the
            forward pass fails.
    """
    contract = reference.facts.contract
    count = calibration_windows(contract, draws.shape[-1])
    if draws.ndim != 3 or draws.shape[1] != count or not len(draws):
        raise EvaluationError(
            f"{model_name(model)}: null draws need shape (draws, {count}, seq_len), found {draws.shape}."
        )
    edges_before = {name: own.edge for name, own in reference.facts.sublayers.items()}
    if None in edges_before.values():
        raise EvaluationError(
            f"{model_name(model)}: a sublayer output of the unedited model is not finite; check its weights."
        )
    # A silent sublayer, for one of a layer that was added and not yet trained, is silent on every text.
    sublayers = [sublayer for sublayer in layout.sublayers if edges_before[sublayer.name]]
    per_pass = max(1, (batch_size or default_batch_size(draws.shape[2], model.device)) // count)
    parts = [draws[start : start + per_pass] for start in range(0, len(draws), per_pass)]
    edges = np.concatenate([_edges(model, sublayers, part, reference) for part in parts], axis=1)
    if not np.all(np.isfinite(edges) & (edges > 0)):
        raise EvaluationError(
            f"{model_name(model)}: activations of the unedited model are not finite; check its weights."
        )
    known = np.array([edges_before[sublayer.name] for sublayer in sublayers], dtype=np.float64)
    logs = np.log(edges / known[:, None])
    groups = np.array([sublayer.group.value for sublayer in sublayers])
    return {str(group): tuple(logs[groups == group].max(axis=0).tolist()) for group in np.unique(groups)}


def _edges(
    model: PreTrainedModel, sublayers: Sequence[Sublayer], draws: Windows, reference: ActivationMeasure
) -> NDArray[np.float64]:
    """Return every sublayer's edge on every draw, from one forward pass, shape (sublayers, draws)."""
    contract = reference.facts.contract
    queue = KrylovQueue(contract["estimator"])
    observers = {
        sublayer.name: SublayerObserver(
            contract, queue, reference.whitening[sublayer.name], tokens=draws.size, draws=len(draws)
        )
        for sublayer in sublayers
    }
    with hooked(model, observers):
        run_body(model, draws.reshape(-1, draws.shape[2]))
    return collect(queue, list(observers.values()), draws=len(draws))[0]
