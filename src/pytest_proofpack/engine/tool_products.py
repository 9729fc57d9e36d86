"""Checkpoints that a quantization tool makes of a baseline, in a directory that goes when nobody needs it any more.

The tool is given the baseline's weights as they were hashed, and quantizes them on the CPU, so that what it leaves is
the same wherever and by how many processes it is made; only recipes without a kernel for CPUs use the baseline's
device.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.common.documentation import page
from pytest_proofpack.common.files import free_space
from pytest_proofpack.common.shortage import what_ran_out
from pytest_proofpack.common.words import data_size, error_line
from pytest_proofpack.engine.edited_checkpoint import Checkpoint, load_checkpoint
from pytest_proofpack.engine.prepared import PreparedSubject, prepare_subject
from pytest_proofpack.engine.tool_checks import needed_bytes
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.files import CheckpointFiles, changed_error
from pytest_proofpack.models.formats.safetensors import SAFETENSORS
from pytest_proofpack.models.load import LOAD_ERRORS, load_model, require_every_key
from pytest_proofpack.models.quiet import prepare_package, quiet
from pytest_proofpack.models.safetensors_files import sort_metadata
from pytest_proofpack.plan.records import ModelSpec, ToolEdit
from pytest_proofpack.plan.tool_edits import TOOLS, ToolJob, recipe_of, spec_of
from pytest_proofpack.runs.paths import MARKER, PRODUCT_PREFIX, PRODUCT_SUFFIX
from pytest_proofpack.runs.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pytest_proofpack.engine.baseline import Baseline

_QUANTIZED, _DENSE = "quantized", "dense"
_ERRORS = (*LOAD_ERRORS, AssertionError)
"""What tools raise for a model that they can't quantize."""


class ToolProduct:
    """What a tool made: a checkpoint whose files are there until :meth:`remove` is called, or this process ends.

    Attributes:
        edit: what was asked for.
        prepared: its checked inputs.
        seconds: how long making it took.
    """

    def __init__(self, run: Run, baseline: Baseline, edit: ToolEdit) -> None:
        """Make it.

        Raises:
            EvaluationError: there is no room for it, the tool can't quantize the model, or left something else than its
                recipe says; or a file of the baseline has changed.
            ConfigurationError: what it left can't be loaded here.
        """
        begin = time.perf_counter()
        self.edit = edit
        self._folder = _folder(run, baseline, edit)
        try:
            self.prepared = self._made(baseline)
        except BaseException:
            self.remove()
            raise
        self.seconds = time.perf_counter() - begin

    def remove(self) -> None:
        """Remove its files; again does nothing."""
        self._folder.cleanup()

    def load(self, run: Run, baseline: Baseline) -> Checkpoint:
        """Load it and compare its tensors with the baseline's.

        Raises:
            EvaluationError: as :func:`load_checkpoint`, or nothing was changed at all.
        """
        checkpoint = load_checkpoint(run, baseline, self.prepared)
        if not checkpoint.changes.touched:
            raise EvaluationError(
                f"{spec_of(self.edit)}: {self.edit.tool} changed no weight of {baseline.spec.id}: it knows none of the "
                "model's layers. Leave the scenario out for this model."
            )
        return replace(checkpoint, made_seconds=self.seconds)

    def _made(self, baseline: Baseline) -> PreparedSubject:
        target = Path(self._folder.name) / _QUANTIZED
        target.mkdir()
        self._quantize(baseline, target)
        gc.collect()  # the model that the tool worked on
        for file in target.glob("*.safetensors"):
            sort_metadata(file)
        spec = baseline.spec
        product = ModelSpec(spec_of(self.edit), target, trust_remote_code=spec.trust_remote_code)
        prepared = prepare_subject(product, baseline.prepared)
        form, recipe = CheckpointFiles.of(product).format.name, recipe_of(self.edit)
        if (prepared.label, form) != (recipe.label, recipe.form):
            raise EvaluationError(
                f"{product.id}: the installed {TOOLS[self.edit.tool].package} left a checkpoint that calls itself "
                f"{prepared.label!r} in the form {form!r}, where {recipe.label!r} in {recipe.form!r} is expected. Use "
                f"a version that was tested ({page('formats.md')})."
            )
        return prepared

    def _quantize(self, baseline: Baseline, target: Path) -> None:
        tool, recipe = TOOLS[self.edit.tool], recipe_of(self.edit)
        prepare_package(tool.package)
        source = _Source(baseline, str(baseline.device) if recipe.gpu else "cpu", Path(self._folder.name) / _DENSE)
        try:
            with quiet():
                tool.make(ToolJob(recipe, self.edit.group, source.load, target))
        except _ERRORS as error:
            what = what_ran_out(error) or error_line(error)
            raise EvaluationError(
                f"{spec_of(self.edit)}: {tool.name} can't quantize {baseline.spec.id} ({what}). Choose another recipe, "
                "or leave the scenario out for this model."
            ) from error


class _Source:
    """The baseline, for a tool to load: of the very bytes that were hashed."""

    def __init__(self, baseline: Baseline, device: str, dense: Path) -> None:
        self._baseline = baseline
        self._device = device
        self._dense = dense

    def load(self, quantization: object | None = None) -> PreTrainedModel:
        """Return the model, dense or quantized; from another form than plain safetensors it becomes dense files first.

        Raises:
            EvaluationError: it cannot be loaded, or a file has changed.
        """
        spec = self._baseline.spec
        if quantization is None or CheckpointFiles.of(spec).format is SAFETENSORS:
            return self._loaded(quantization)
        self._loaded(None).save_pretrained(self._dense)
        try:
            return load_model(replace(spec, path=self._dense, files=()), self._device, quantization=quantization).model
        finally:
            shutil.rmtree(self._dense, ignore_errors=True)

    def _loaded(self, quantization: object | None) -> PreTrainedModel:
        spec = self._baseline.spec
        loaded = load_model(spec, self._device, quantization=quantization)
        require_every_key(spec, loaded)
        if loaded.reading.digest() != self._baseline.digest:
            raise changed_error(tuple(CheckpointFiles.of(spec).weights))
        return loaded.model


def _folder(run: Run, baseline: Baseline, edit: ToolEdit) -> tempfile.TemporaryDirectory[str]:
    """Make the directory of a product: in the run directory, or, on another host, where that keeps temporary files.

    Raises:
        EvaluationError: there is no room.
    """
    place = run.out if (run.out / MARKER).is_file() else Path(tempfile.gettempdir())
    needed, free = needed_bytes(baseline.prepared.spec), free_space(place).bytes
    if free < needed:
        raise EvaluationError(
            f"{spec_of(edit)}: the file system of {place} has {data_size(free)} left, and what {edit.tool} makes of "
            f"{baseline.spec.id} may need {data_size(needed)}. Make room and go on with --proofpack-resume."
        )
    return tempfile.TemporaryDirectory(
        dir=place, prefix=PRODUCT_PREFIX, suffix=PRODUCT_SUFFIX, ignore_cleanup_errors=True
    )
