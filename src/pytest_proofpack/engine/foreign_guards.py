"""Measuring for the guards of extensions: each model by itself, the unedited one once per draw of windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.errors import EvaluationError, FormatError
from pytest_proofpack.guards.guard import MeasureContext
from pytest_proofpack.guards.registry import GUARDS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pytest_proofpack.models.layout import ModelLayout
    from pytest_proofpack.plan.records import CertificateRequest
    from pytest_proofpack.text.windows import SampledWindows


def measure_foreign(
    model: PreTrainedModel, layout: ModelLayout, windows: SampledWindows, request: CertificateRequest | None = None
) -> dict[str, JsonObject]:
    """Return what every guard of an extension reads off a model, by name.

    Args:
        model: the model.
        layout: the baseline's layout.
        windows: the windows of the certificate.
        request: what is certified; None for the unedited model.

    Raises:
        EvaluationError: a guard returned something that is no JSON object.
    """
    measured = {}
    for name, guard in GUARDS.added.items():
        if guard.measure is None:
            continue  # never: the registry refuses such a guard
        with torch.inference_mode():
            found = guard.measure(MeasureContext(model, request is None, layout, windows, request, guard.thresholds))
        try:
            measured[name] = parse_json(compact_json(found).encode(), name)
        except FormatError as error:
            raise EvaluationError(
                f"guard {name!r}: what measure(context) returned cannot stand in a certificate: {error}. Return a dict "
                "of plain numbers, strings, lists and None for what is not finite."
            ) from error
    return measured


def foreign_evidence(
    baseline: Mapping[str, JsonObject],
    model: PreTrainedModel,
    layout: ModelLayout,
    windows: SampledWindows,
    request: CertificateRequest,
) -> dict[str, JsonObject]:
    """Return the evidence of every guard of an extension, by name: what it read off baseline and subject.

    Args:
        baseline: of :func:`measure_foreign` on the unedited model.
        model: the edited model.
        layout: the baseline's layout.
        windows: those that the unedited model was measured on.
        request: what is certified.

    Raises:
        EvaluationError: as :func:`measure_foreign`.
    """
    after = measure_foreign(model, layout, windows, request)
    return {name: {"baseline": baseline[name], "subject": facts} for name, facts in after.items()}
