"""The evidence of the direction guard: weights compared with the baseline's, and what sublayers answered."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits.target import EditReport
from pytest_proofpack.guards.direction_evidence import direction_evidence
from pytest_proofpack.guards.places import places_evidence
from pytest_proofpack.measures.activations import ActivationMeasure
from pytest_proofpack.measures.direction import measure_direction
from pytest_proofpack.measures.responses import compared_responses
from pytest_proofpack.models.layout import ModelLayout, input_embedding
from pytest_proofpack.text.windows import SampledWindows


def measured_directions(
    model: PreTrainedModel,
    layout: ModelLayout,
    report: EditReport,
    *,
    tokenizer: Any,
    grown: Collection[str],
    rules: JsonObject,
    activations: tuple[ActivationMeasure, ActivationMeasure],
    windows: SampledWindows,
) -> JsonObject:
    """Return what a certificate records as evidence under ``direction`` and ``places``.

    Args:
        model: the edited model.
        layout: the baseline's.
        report: what was changed, and what gives the values from before.
        tokenizer: the baseline's.
        grown: tables of tokens to which rows were added.
        rules: the guard's section of the policy.
        activations: of baseline and subject, on the same windows.
        windows: of the run.
    """
    tables = [name for name in _token_tables(model, layout) if name in report.parameters]
    texts = {identifier: text for text, identifier in tokenizer.get_vocab().items()} if tables else {}
    found = measure_direction(
        *(model, layout, report.original, report.parameters),
        rules=rules,
        tokens=dict.fromkeys(tables, texts),
        grown=grown,
        in_text=np.union1d(windows.preview, windows.final).tolist() if tables else (),
    )
    before, after = activations
    responses = compared_responses(before.sketches, after.sketches, layout)
    direction = direction_evidence(found.matrices, found.tables, found.not_compared, responses, found.lost_in_text)
    return {"direction": direction, "places": places_evidence(found.rearranged)}


def _token_tables(model: PreTrainedModel, layout: ModelLayout) -> list[str]:
    """Return the parameters whose rows are tokens: the embedding, and the head where it is another."""
    embedding = input_embedding(model).weight
    names = [name for name, own in model.named_parameters() if own is embedding]
    return [*names, *([] if layout.head_name is None else [layout.head_name])]
