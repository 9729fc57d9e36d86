"""Scopes that name a layer: whether a model has it, told from its files, before any weight is loaded."""

from __future__ import annotations

import re

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.sizes import LAYER_COUNTS
from pytest_proofpack.plan.edit_specs import parse_scope
from pytest_proofpack.plan.records import EditSpec, ModelSpec
from pytest_proofpack.runs.run import Run

_COUNTS = (*LAYER_COUNTS, "decoder_layers")
_NUMBER = re.compile(r"\.([0-9]{1,6})\.")


def require_layers(run: Run, spec: ModelSpec) -> None:
    """Make sure that no edit of a model names a layer beyond its last.

    What configuration and names of tensors count is at least how many layers there are; where they count more (experts
    have numbers too), the edit itself says what does not fit.

    Args:
        run: the run.
        spec: the model, with its directory on this machine.

    Raises:
        ConfigurationError: an edit does; names its scenario and how many layers there are.
    """
    files = CheckpointFiles.of(spec)
    stated = [value for key in _COUNTS if type(value := files.text_config.get(key)) is int]
    if not stated:
        return
    numbered = [int(number) + 1 for name in files.tensors for number in _NUMBER.findall(name)]
    layers = max(stated + numbered)
    for request in run.requests:
        if request.model.id != spec.id or not isinstance(request.edit, EditSpec) or not request.edit.scope:
            continue
        scope = parse_scope(request.edit.scope)
        needed = scope.first_layers or (scope.layer or 0) + 1
        if needed > layers:
            raise ConfigurationError(
                f"{spec.id}: the scope {request.edit.scope} of scenario {request.scenario.id} does not fit: the model "
                f"has {layers} layers, of which the last is @layer={layers - 1}."
            )
