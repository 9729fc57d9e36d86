"""The baseline: a model loaded once per worker, and everything that is measured on it while it is unedited.

Its losses and distributions are kept in the run directory, one file per draw of windows, so that the workers of one
machine compute them once between them; likewise the null statistics of its calibration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from transformers import PreTrainedModel

from pytest_proofpack.certificate.bootstrap import is_finite
from pytest_proofpack.certificate.presets import NullRatios, preset_facts
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.stopwatch import Stopwatch
from pytest_proofpack.common.strict_json import JsonObject, compact_json, read_json
from pytest_proofpack.devices.placement import Placement
from pytest_proofpack.edits.stored import StoredWeights
from pytest_proofpack.edits.target import Originals
from pytest_proofpack.engine.foreign_guards import measure_foreign
from pytest_proofpack.engine.passes import sample_losses
from pytest_proofpack.engine.prepared import Prepared
from pytest_proofpack.errors import EvaluationError, StorageError
from pytest_proofpack.guards.activations import calibration_windows
from pytest_proofpack.guards.structure import StructureMeasure
from pytest_proofpack.measures.activations import ActivationMeasure, measure_activations
from pytest_proofpack.measures.distribution import BaselineDistribution, DistributionCache, model_cache_plan
from pytest_proofpack.measures.null_statistics import null_edge_ratios
from pytest_proofpack.measures.spectra import SpectraMeasure, measure_spectra
from pytest_proofpack.measures.structure import measure_inventory, measure_structure
from pytest_proofpack.models.device import choose_device, configure_determinism, gpus_of, limit_memory, warming_up
from pytest_proofpack.models.files import model_path
from pytest_proofpack.models.forward import BatchSize, default_batch_size
from pytest_proofpack.models.layout import ModelLayout, analyze_layout, require_decoder
from pytest_proofpack.models.load import load_model, require_every_key
from pytest_proofpack.models.reading import CheckpointReading
from pytest_proofpack.plan.records import ModelSpec, WindowLosses, WindowSample
from pytest_proofpack.runs.paths import BASELINE, NULL_RATIOS, SHARED, WINDOWS
from pytest_proofpack.runs.run import Run
from pytest_proofpack.text.windows import SampledWindows

T = TypeVar("T")

_PATIENCE = 300.0
"""Seconds to wait for another worker that measures the same. Then it is measured here as well: that one may hang."""


@dataclass(frozen=True)
class BaselineSample:
    """One draw of windows and what was measured on the unedited model with it.

    Attributes:
        windows: the token windows.
        losses: losses on preview and final windows.
        activations: of the sublayers, on the first preview windows.
        distribution: the top of the next-token distributions on the final windows.
        foreign: what the guards of extensions read off the unedited model, by name.
    """

    windows: SampledWindows
    losses: WindowSample
    activations: ActivationMeasure
    distribution: DistributionCache
    foreign: Mapping[str, JsonObject]


@dataclass(eq=False)
class Baseline:
    """A loaded, unedited model and what was measured on it.

    It lives, and so is no record: its weights can be given up, its batch gets smaller when memory runs out, and draws
    are measured as they come up. All of that is done in this package, on the one that the process's workbench holds;
    what was measured does not change any more.

    ``model`` is edited in place while a certificate is made and is as before afterwards. ``null`` are the RMT guard's
    null statistics, empty without calibration; None until they are needed, if another process measures them.
    ``spread`` is what each GPU may hold of a model that takes several, else empty. ``originals`` says where what an
    edit replaces is kept. ``seconds`` is what loading and measuring took. ``batch`` is the size of its forward
    passes. ``draws`` holds what was measured per run, as it comes up. ``misread`` says that a file has changed while
    it was read: nobody knows what was loaded.
    """

    prepared: Prepared
    model: PreTrainedModel
    device: torch.device
    determinism: str
    layout: ModelLayout
    structure: StructureMeasure
    spectra: SpectraMeasure
    null: NullRatios | None
    reading: CheckpointReading
    spread: Mapping[int, int]
    originals: Originals
    seconds: Mapping[str, float]
    batch: BatchSize
    draws: dict[int, BaselineSample] = field(default_factory=dict)
    misread: bool = False

    @property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        return self.prepared.spec

    @property
    def released(self) -> bool:
        """Whether the weights have been given up; what was measured on them is still there."""
        return next(self.model.parameters()).is_meta

    @cached_property
    def digest(self) -> str:
        """The root digest of what was read; hashing goes on while the first things are measured.

        Raises:
            EvaluationError: a file has changed while it was read.
        """
        try:
            return self.reading.digest()
        except EvaluationError:
            self.misread = True
            raise

    @property
    def null_log_ratios(self) -> NullRatios:
        """The null statistics; there once a window sample has been measured."""
        assert self.null is not None
        return self.null

    def release(self) -> None:
        """Give up the weights, to make room for a subject's. The baseline can't be measured or edited any more."""
        torch.nn.Module.to(self.model, "meta")


def load_baseline(run: Run, prepared: Prepared, placement: Placement | None = None) -> Baseline:
    """Load a model and measure it.

    Args:
        run: the run.
        prepared: the model's checked inputs.
        placement: where it goes; None for the settings' device and the usual batch.

    Raises:
        EvaluationError: it cannot be loaded, or a file of it has changed meanwhile.
        ConfigurationError: the requested device is not there, its weights are not those of its configuration, it is no
            decoder that can be taken apart, or a calibration preset is of another model.
    """
    spec = prepared.spec
    device = choose_device(run.settings.device if placement is None else placement.device)
    windows = default_batch_size(prepared.plan.seq_len, device) if placement is None else placement.batch_windows
    reached = configure_determinism(run.settings.determinism, device)
    spread = {} if placement is None else placement.max_memory
    gpus = gpus_of(device, spread)
    limit_memory(gpus, run.settings.gpu_memory)
    watch = Stopwatch()
    stored = StoredWeights(model_path(spec))
    with watch.phase("load"), warming_up(gpus):
        loaded = load_model(spec, str(device), max_memory=spread)
        require_every_key(spec, loaded)
    with watch.phase("layout"):
        layout = analyze_layout(loaded.model)
        require_decoder(spec.id, layout)
        structure = measure_structure(loaded.model, layout, prepared.tokenizer_size)
        structure = replace(structure, inventory=measure_inventory(loaded.model, layout))
    with watch.phase("spectra"):
        spectra = measure_spectra(loaded.model, layout, run.spectral_contract, baseline=None, changed=None)
    baseline = Baseline(
        prepared=prepared,
        model=loaded.model,
        device=device,
        determinism=reached,
        layout=layout,
        structure=structure,
        spectra=spectra,
        null=None,
        reading=loaded.reading,
        spread=spread,
        originals=Originals(0 if placement is None else placement.left_free, stored),
        seconds=watch.seconds,
        batch=BatchSize(windows, lanes=None if placement is None else placement.lanes),
    )
    with watch.phase("null"):
        baseline.null = _null_log_ratios(run, baseline, wait=False)
    return baseline


def baseline_sample(run: Run, baseline: Baseline, number: int) -> BaselineSample:
    """Return the windows of run ``number`` and what the unedited model reads on them.

    Losses and distributions are computed once per run directory, activations once per worker.

    Raises:
        EvaluationError: the baseline's loss is not finite.
    """
    if number not in baseline.draws:
        windows = baseline.prepared.text.draw(number)
        losses, distribution = _shared_sample(run, baseline, windows)
        activations = measure_activations(baseline.model, baseline.layout, windows.preview, run.activation_contract)
        foreign = measure_foreign(baseline.model, baseline.layout, windows)
        if baseline.null is None:
            baseline.null = _null_log_ratios(run, baseline, wait=True)
        _ = baseline.digest  # what is hashed is the model's own memory, which an edit may change now
        baseline.draws[number] = BaselineSample(windows, losses, activations, distribution, foreign)
    return baseline.draws[number]


def _shared_sample(run: Run, baseline: Baseline, windows: SampledWindows) -> tuple[WindowSample, DistributionCache]:
    """Read the baseline's losses and distributions from the run directory, or compute them and leave them there."""
    calibration = calibration_windows(run.activation_contract, windows.preview.shape[1])
    if not (run.out / SHARED).is_file():
        return _measure_sample(baseline, windows, calibration)
    path = _shared_folder(run, baseline.spec) / WINDOWS.format(windows.seed)

    def measure() -> tuple[WindowSample, DistributionCache]:
        return _measure_sample(baseline, windows, calibration)

    try:
        return _measured_once(
            *(path, _PATIENCE, lambda: _read_sample(path, baseline, windows), measure),
            lambda measured: _serialize(*measured, baseline.digest),
        )
    except Timeout:
        return measure()


def _measure_sample(
    baseline: Baseline, windows: SampledWindows, calibration: int
) -> tuple[WindowSample, DistributionCache]:
    recorder = BaselineDistribution(model_cache_plan(baseline.model, windows.final))
    losses = sample_losses(baseline.model, windows, baseline.batch, calibration, observer=recorder)
    if not (is_finite(losses.preview.losses) and is_finite(losses.final.losses)):
        raise EvaluationError(
            f"{baseline.spec.id}: the loss of the unedited baseline is not finite, so nothing can be compared with it. "
            "Check the checkpoint for NaN or infinite weights, or whether its dtype overflows."
        )
    return losses, recorder.cache()


def _serialize(losses: WindowSample, distribution: DistributionCache, digest: str) -> bytes:
    arrays = {name: np.asarray(getattr(losses, name).losses, dtype=np.float64) for name in ("preview", "final")}
    return save_tensors(
        {**arrays, **distribution.to_arrays()},
        metadata={"model_digest": digest, "ids": ",".join([*losses.preview.ids, *losses.final.ids])},
    )


def _read_sample(path: Path, baseline: Baseline, windows: SampledWindows) -> tuple[WindowSample, DistributionCache]:
    """Read what another worker stored, if it is of this model on these windows."""
    raw = path.read_bytes()
    header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    wanted = ",".join([*windows.preview_ids, *windows.final_ids])
    if baseline.digest.encode() not in header or wanted.encode() not in header:
        raise EvaluationError(f"{path.name}: holds the losses of another model or other windows. Use a new directory.")
    arrays = load_tensors(raw)
    counts = windows.preview.shape[1] - 1
    preview, final = (
        WindowLosses(ids, tuple(arrays[name].tolist()), (counts,) * len(ids))
        for name, ids in (("preview", windows.preview_ids), ("final", windows.final_ids))
    )
    plan = model_cache_plan(baseline.model, windows.final)
    return WindowSample(preview, final), DistributionCache.from_arrays(arrays, plan)


def _null_log_ratios(run: Run, baseline: Baseline, *, wait: bool) -> NullRatios | None:
    """Return the null statistics from the preset, from the run directory, or measured; empty without calibration.

    None if another process is measuring them, unless told to wait for it: there is something else to measure meanwhile.
    """
    contract, prepared = run.activation_contract, baseline.prepared
    preset = run.presets.get(prepared.spec.id)
    if preset is not None:
        facts = preset_facts(baseline.digest, prepared.tokenizer_hash, prepared.plan.seq_len, contract)
        preset.require_fit(prepared.spec.id, facts)
        return preset.null_log_ratios
    count = calibration_windows(contract, prepared.plan.seq_len)
    needed = count * (1 + run.policy.section("rmt")["min_null_draws"])
    if run.suite.runs["calibration"] == 0 or len(prepared.text.windows) < needed:
        return {}
    order = np.random.default_rng(prepared.plan.seed).permutation(len(prepared.text.windows))[:needed]
    pool = prepared.text.windows[order]

    def measure() -> NullRatios:
        model, layout, batch = baseline.model, baseline.layout, baseline.batch.windows
        reference = measure_activations(model, layout, pool[:count], contract)
        return null_edge_ratios(model, layout, pool[count:].reshape(-1, count, pool.shape[1]), reference, batch)

    if not (run.out / SHARED).is_file():
        return measure()
    path = _shared_folder(run, prepared.spec) / NULL_RATIOS

    def read() -> NullRatios:
        stored = read_json(path)
        if stored["model_digest"] != baseline.digest:
            raise EvaluationError(f"{path.name}: holds the statistics of another model. Use a new directory.")
        return {kind: tuple(ratios) for kind, ratios in stored["log_ratios"].items()}

    try:
        return _measured_once(
            *(path, _PATIENCE if wait else 0, read, measure),
            lambda ratios: compact_json({"model_digest": baseline.digest, "log_ratios": ratios}),
        )
    except Timeout:
        return measure() if wait else None


def _shared_folder(run: Run, spec: ModelSpec) -> Path:
    """Return the model's folder for what workers share."""
    return run.out / run.suite.folders[spec.id] / BASELINE


@contextlib.contextmanager
def _sharing(path: Path, timeout: float) -> Iterator[bool]:
    """Hold the lock of a file that workers share; give False where the disk has no place for it: everybody measures.

    Raises:
        Timeout: another process still holds it after so many seconds.
    """
    lock = FileLock(path.with_suffix(".lock"), timeout=timeout)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _measured_once(
    path: Path, timeout: float, read: Callable[[], T], measure: Callable[[], T], written: Callable[[T], bytes | str]
) -> T:
    """Return what another process has left in a file, else measure it and leave it there.

    Without room for it on the disk, others measure it themselves.

    Raises:
        Timeout: another process still measures it after so many seconds.
    """
    with _sharing(path, timeout) as shared:
        if shared and path.is_file():
            return read()
        measured = measure()
        if shared:
            with contextlib.suppress(StorageError):
                atomic_write(path, written(measured))
        return measured
