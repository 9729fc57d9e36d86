"""The forward passes that a baseline and each of its subjects are measured by, cut into the same batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedModel

from pytest_proofpack.models.forward import BatchSize, Observer, launch_recorded
from pytest_proofpack.plan.records import WindowLosses, WindowSample
from pytest_proofpack.text.windows import SampledWindows


def sample_losses(
    model: PreTrainedModel,
    windows: SampledWindows,
    batch: BatchSize,
    calibration: int,
    *,
    watching: contextlib.AbstractContextManager[None] | None = None,
    observer: Observer | None = None,
) -> WindowSample:
    """Return the losses on preview and final windows, the first ``calibration`` of the preview in a batch of their own.

    That is the batch whose activations are watched, and which the overhead guard repeats. The bits of a matrix product
    depend on its size, so baseline and subject are cut into the same batches.

    All passes are launched before any is waited for: of a model over several devices, one would have nothing to do at
    the end of each pass.

    Args:
        model: see :func:`pytest_proofpack.models.forward.window_losses`.
        windows: of one draw.
        batch: how many share a forward pass.
        calibration: how many are watched.
        watching: is entered while the calibration windows are launched.
        observer: is shown the distributions on the final windows.

    Raises:
        EvaluationError: as :func:`pytest_proofpack.models.forward.window_losses`.
    """
    with watching or contextlib.nullcontext():
        preview = [_launch_calibration(model, windows, batch, calibration)]
    if calibration < len(windows.preview):  # else the suite asks for no more preview windows than are watched
        rest, ids = windows.preview[calibration:], windows.preview_ids[calibration:]
        preview.append(launch_recorded(model, rest, ids, batch_size=batch))
    final = launch_recorded(model, windows.final, windows.final_ids, batch_size=batch, observer=observer)
    first, *others = (fetch() for fetch in preview)
    for other in others:
        first = first.joined(other)
    return WindowSample(first, final())


def calibration_losses(model: PreTrainedModel, windows: SampledWindows, batch: BatchSize, count: int) -> WindowLosses:
    """Return the losses on the first ``count`` preview windows, in one batch if memory allows.

    If it does not, later batches are smaller too.

    Raises:
        EvaluationError: as :func:`pytest_proofpack.models.forward.window_losses`.
    """
    return _launch_calibration(model, windows, batch, count)()


def _launch_calibration(
    model: PreTrainedModel, windows: SampledWindows, batch: BatchSize, count: int
) -> Callable[[], WindowLosses]:
    own = replace(batch, windows=min(batch.windows, count))
    fetch = launch_recorded(model, windows.preview[:count], windows.preview_ids[:count], batch_size=own)
    if own.halvings > batch.halvings:
        batch.windows, batch.halvings = own.windows, own.halvings
    return fetch
