"""How a subject was read: what a certificate records of its form, and of where its numbers come from."""

from __future__ import annotations

from importlib.metadata import version

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.readings import AS_RUN, DEQUANTIZED, readings_evidence
from pytest_proofpack.models.checkpoint_formats import Loaded
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.plan.quantization import quantization_words
from pytest_proofpack.plan.records import ModelSpec


def reading_facts(subject: ModelSpec | None) -> JsonObject:
    """Return the evidence on how a subject was read.

    Args:
        subject: the model that was loaded; None of one that was edited in memory.
    """
    if subject is None:
        return readings_evidence()
    files = CheckpointFiles.of(subject)
    form = files.format
    is_packed = form.loaded is Loaded.PACKED
    package = {"name": form.package, "version": version(form.package)} if form.package else None
    words = form.quantization(files) or (quantization_words(form.name) if is_packed else None)
    if words is None:
        return readings_evidence(form=form.name, package=package)
    return readings_evidence(
        *(AS_RUN if is_packed else DEQUANTIZED, DEQUANTIZED),
        form=form.name,
        package=package,
        quantization=words.to_json(),
    )
