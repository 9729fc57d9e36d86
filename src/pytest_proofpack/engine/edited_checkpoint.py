"""Subjects that somebody else has edited: their directories checked, their weights loaded beside the baseline's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel

from pytest_proofpack.devices.model_shapes import read_shape
from pytest_proofpack.engine.baseline import Baseline, baseline_sample
from pytest_proofpack.engine.prepared import PreparedSubject
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.changes import ModelChanges
from pytest_proofpack.measures.changes import Reference, measure_changes, reference_of_model
from pytest_proofpack.models.additions import load_on_baseline
from pytest_proofpack.models.checkpoint_formats import Loaded
from pytest_proofpack.models.device import free_memory
from pytest_proofpack.models.files import CheckpointFiles, model_path
from pytest_proofpack.models.load import LoadedModel, load_model
from pytest_proofpack.models.missing_groups import missing_groups
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.runs.run import Run

_ROOM = 1.3
"""Memory that a subject needs, in multiples of its weight files, or of its weights as they are loaded from a GGUF file:
forward passes and measurements come on top. One that stays packed is held dense besides."""
_WARNINGS_KEPT = 8
_WARNING_LENGTH = 300


@dataclass(frozen=True)
class Checkpoint:
    """An edited model that was loaded, and how it differs from its baseline.

    Attributes:
        prepared: its checked inputs.
        model: the model, as it runs.
        weights: what its weights are worth, dense: ``model`` itself where it is.
        loading: keys that loading reported, by kind: ``missing``, ``unexpected``, ``mismatched``.
        changes: what separates it from the baseline.
        warnings: what transformers and torch warned about, shortened and without paths.
        load_seconds: how long loading and comparing took.
        made_seconds: how long it took a tool to make it, if one did.
    """

    prepared: PreparedSubject
    model: PreTrainedModel
    weights: PreTrainedModel
    loading: Mapping[str, tuple[str, ...]]
    changes: ModelChanges
    warnings: tuple[str, ...]
    load_seconds: float
    made_seconds: float | None = None


def load_checkpoint(run: Run, baseline: Baseline, prepared: PreparedSubject) -> Checkpoint:
    """Load an edited model and compare its tensors with the baseline's.

    Where the device has no room for both, the baseline's weights are given up once everything that the run needs of
    them has been measured, and the tensors are compared with its files.

    Raises:
        EvaluationError: the model cannot be loaded, or the baseline's loss is not finite; or a file has changed.
    """
    start = time.perf_counter()
    if not baseline.released and (baseline.spread or not _has_room(baseline, prepared)):
        for number in range(1, run.highest_run + 1):
            baseline_sample(run, baseline, number)
        if baseline.originals.stored is not None:
            baseline.originals.stored.recognise(baseline.model)
        baseline.release()
    loaded = _load(prepared, baseline)
    _require_own_weights(prepared.spec, loaded)
    loading = {"missing": loaded.missing, "unexpected": loaded.unexpected, "mismatched": loaded.mismatched}
    changes = measure_changes(
        loaded.weights,
        baseline.layout,
        baseline.spectra.shapes,
        baseline_values(baseline),
        source="files" if baseline.released else "memory",
        loading=loading,
    )
    if loaded.reading.digest() != prepared.digest:
        raise EvaluationError(f"{model_path(prepared.spec)}: is not what it was when the run began. Begin a new one.")
    warnings = _printable_warnings(loaded.warnings, prepared.spec)
    seconds = time.perf_counter() - start
    return Checkpoint(prepared, loaded.model, loaded.weights, loading, changes, warnings, seconds)


def baseline_values(baseline: Baseline) -> Reference:
    """Return what gives the values of a baseline's parameters: its memory, or its files once it has been released."""
    return baseline.originals.read if baseline.released else reference_of_model(baseline.model)


def _load(prepared: PreparedSubject, baseline: Baseline) -> LoadedModel:
    """Load an edited model, or a copy of the baseline with what is added to it."""
    device, spec = str(baseline.device), prepared.spec
    if prepared.addition is None:
        return load_model(spec, device, max_memory=baseline.spread)
    return load_on_baseline(spec, baseline.spec, baseline.digest, device, max_memory=baseline.spread)


def _require_own_weights(spec: ModelSpec, loaded: LoadedModel) -> None:
    """Make sure that no whole group of matrices holds fresh values: headers do not tell it where names differ.

    Raises:
        EvaluationError: one does.
    """
    shapes = {name: own.shape for name, own in loaded.model.named_parameters()}
    if lost := missing_groups(shapes, loaded.missing):
        raise EvaluationError(
            f"{model_path(spec)}: loading it finds nothing for whole groups of matrices ({', '.join(lost[:8])}), so "
            "random values would be measured. Its files are not what its config.json says; save the whole model dense: "
            "model.save_pretrained(directory)."
        )


def _has_room(baseline: Baseline, prepared: PreparedSubject) -> bool:
    stays_packed = CheckpointFiles.of(prepared.spec).format.loaded is Loaded.PACKED  # and is held dense besides
    beside = [baseline.spec] if stays_packed or prepared.addition is not None else []
    return free_memory(baseline.device)[0] > _ROOM * sum(map(_loaded_size, [prepared.spec, *beside]))


def _loaded_size(spec: ModelSpec) -> int:
    """Return about how many bytes a model's weights take once they are loaded; those of some forms become dense."""
    files = CheckpointFiles.of(spec)
    becomes_dense = files.format.single_file is not None or files.format.unpacks is not None
    return max(files.size, read_shape(spec).weights if becomes_dense else 0)


def _printable_warnings(warnings: tuple[str, ...], spec: ModelSpec) -> tuple[str, ...]:
    """Return what a certificate may show: paths of this machine are none of a reader's business."""
    path = str(model_path(spec))
    return tuple(text.replace(path, spec.id)[:_WARNING_LENGTH] for text in warnings[:_WARNINGS_KEPT])
