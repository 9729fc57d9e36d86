"""Subjects that somebody else has edited: their directories checked, their weights loaded beside the baseline's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pytest_proofpack.engine.baseline import Baseline, Prepared, baseline_sample
from pytest_proofpack.guards.changes import ModelChanges
from pytest_proofpack.measures.changes import measure_changes, reference_of_model
from pytest_proofpack.models.device import free_memory
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint, model_path
from pytest_proofpack.models.limits import check_context, check_vocabulary
from pytest_proofpack.models.load import load_config, load_model, load_tokenizer
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.runs.run import Run
from pytest_proofpack.text.windows import tokenizer_fingerprint

_ROOM = 1.3
"""Memory that a subject needs, in multiples of its weight files: forward passes and measurements come on top."""
_WARNINGS_KEPT = 8
_WARNING_LENGTH = 300


@dataclass(frozen=True)
class PreparedSubject:
    """An edited model's inputs, checked, before any weight is loaded.

    Attributes:
        spec: the model.
        digest: the OpenSSF root of its directory.
        tokenizer_hash: fingerprint of its own tokenizer; None if it has none.
        quantized_by: the method by which its files are quantized, for example ``fp8``; None if they are dense.
    """

    spec: ModelSpec
    digest: str
    tokenizer_hash: str | None
    quantized_by: str | None


@dataclass(frozen=True)
class Checkpoint:
    """An edited model that was loaded, and how it differs from its baseline.

    Attributes:
        prepared: its checked inputs.
        model: the model.
        loading: keys that loading reported, by kind: ``missing``, ``unexpected``, ``mismatched``.
        changes: what separates it from the baseline.
        warnings: what transformers and torch warned about, shortened and without paths.
        load_seconds: how long loading and comparing took.
    """

    prepared: PreparedSubject
    model: PreTrainedModel
    loading: Mapping[str, tuple[str, ...]]
    changes: ModelChanges
    warnings: tuple[str, ...]
    load_seconds: float


def prepare_subject(spec: ModelSpec, baseline: Prepared) -> PreparedSubject:
    """Check an edited model's directory before any weight is loaded. It may come without a tokenizer.

    Raises:
        ConfigurationError: something about it cannot be used: the directory, or a vocabulary or context that is too
            small for the windows, which the baseline's tokenizer makes.
    """
    check_checkpoint(spec)
    config = load_config(spec)
    check_vocabulary(baseline.tokenizer, config)
    check_context(config, baseline.plan.seq_len)
    files = CheckpointFiles.of(spec)
    own = tokenizer_fingerprint(load_tokenizer(spec)) if files.tokenizer_files else None
    return PreparedSubject(spec, files.digest, own, files.quantization_method)


def load_checkpoint(run: Run, baseline: Baseline, prepared: PreparedSubject) -> Checkpoint:
    """Load an edited model and compare its tensors with the baseline's.

    Where the device has no room for both, the baseline's weights are given up once everything that the run needs of
    them has been measured, and the tensors are compared with its files.

    Raises:
        EvaluationError: the model cannot be loaded, or the baseline's loss is not finite.
    """
    start = time.perf_counter()
    if not baseline.released and (baseline.spread or not _has_room(baseline.device, prepared.spec)):
        for number in range(1, run.highest_run + 1):
            baseline_sample(run, baseline, number)
        baseline.release()
    loaded = load_model(prepared.spec, str(baseline.device), max_memory=baseline.spread)
    loading = {"missing": loaded.missing, "unexpected": loaded.unexpected, "mismatched": loaded.mismatched}
    in_memory = not baseline.released
    changes = measure_changes(
        loaded.model,
        baseline.layout,
        baseline.spectra.shapes,
        reference_of_model(baseline.model) if in_memory else baseline.originals.read,
        source="memory" if in_memory else "files",
        loading=loading,
    )
    warnings = _printable_warnings(loaded.warnings, prepared.spec)
    return Checkpoint(prepared, loaded.model, loading, changes, warnings, time.perf_counter() - start)


def _has_room(device: torch.device, spec: ModelSpec) -> bool:
    needed = _ROOM * CheckpointFiles.of(spec).size
    return free_memory(device)[0] > needed


def _printable_warnings(warnings: tuple[str, ...], spec: ModelSpec) -> tuple[str, ...]:
    """Return what a certificate may show: paths of this machine are none of a reader's business."""
    path = str(model_path(spec))
    return tuple(text.replace(path, spec.id)[:_WARNING_LENGTH] for text in warnings[:_WARNINGS_KEPT])
