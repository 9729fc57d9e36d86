"""What is no model by itself, an adapter, on the model that it is added to: loaded, merged, and known by its bytes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from pytest_proofpack.common.shortage import what_ran_out
from pytest_proofpack.common.words import error_line
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.files import CheckpointFiles, changed_error
from pytest_proofpack.models.load import (
    LOAD_ERRORS,
    LoadedModel,
    load_model,
    require_every_key,
    seeded,
)
from pytest_proofpack.models.quiet import quiet
from pytest_proofpack.models.reading import CheckpointReading
from pytest_proofpack.plan.records import ModelSpec


def load_on_baseline(
    spec: ModelSpec,
    baseline: ModelSpec,
    digest: str,
    device: str,
    *,
    max_memory: Mapping[int, int] | None = None,
) -> LoadedModel:
    """Load a second copy of the baseline, merge into it what is added, and return the model that comes out.

    Args:
        spec: what is added; its format has an ``addition``.
        baseline: the baseline.
        digest: of the baseline as it was measured; its files have to be those still.
        device: a torch device.
        max_memory: see :func:`pytest_proofpack.models.load.load_model`.

    Returns:
        The merged model; ``reading`` is of the files of ``spec``.

    Raises:
        EvaluationError: the two don't fit, peft can't merge them, or a file has changed.
    """
    files = CheckpointFiles.of(spec)
    addition = files.format.addition
    assert addition is not None
    base = load_model(baseline, device, max_memory=max_memory)
    require_every_key(baseline, base)
    if base.reading.digest() != digest:  # before the model is changed: what was hashed is its own memory
        raise changed_error(tuple(CheckpointFiles.of(baseline).weights))
    reading = CheckpointReading(files)
    with quiet(), seeded(device, max_memory):
        with reading.instead_of_mapping():
            opened = {file: reading.open(file) for file in files.weights}
            tensors = {name: opened[file].get_tensor(name) for file in files.weights for name in files.headers[file]}
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = addition.merge(base.model, files, tensors)
        except LOAD_ERRORS as error:
            if (shortage := what_ran_out(error)) is not None:
                raise EvaluationError(f"{spec.id}: cannot be merged on {device}: {shortage}") from error
            raise EvaluationError(
                f"{spec.id}: cannot be merged into {baseline.id} ({error_line(error)}). Check that the installed "
                f"{files.format.package} does it: PeftModel.from_pretrained(model, directory).merge_and_unload()."
            ) from error
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(requires_grad=False)
    # Not what transformers logs, some of which it logs once per process: certificates don't depend on what came before.
    # Nor what peft is told of its own future.
    meant = [own for own in caught if not issubclass(own.category, FutureWarning | DeprecationWarning)]
    messages = dict.fromkeys(str(own.message) for own in meant)
    return LoadedModel(
        model=model, weights=model, missing=(), unexpected=(), mismatched=(), warnings=tuple(messages), reading=reading
    )
