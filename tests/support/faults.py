"""Error injections by their names."""

from __future__ import annotations

from contextlib import AbstractContextManager

from transformers import PreTrainedModel

from pytest_proofpack.edits.apply import edited
from pytest_proofpack.edits.target import EditReport, Originals
from pytest_proofpack.models.layout import ModelLayout
from pytest_proofpack.plan.records import FaultSpec


def injected(
    model: PreTrainedModel, layout: ModelLayout, fault: str, *, seed: int, originals: Originals | None = None
) -> AbstractContextManager[EditReport]:
    """Inject an error into ``model`` for the length of the body."""
    return edited(model, layout, FaultSpec(fault), seed=seed, originals=originals)
