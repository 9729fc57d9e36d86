"""Applying an edit or an error injection to a model, for as long as it is measured.

Example::

    layout = analyze_layout(model)
    with edited(model, layout, parse_edit_spec("quant_rtn:4:32:ffn"), seed=0) as report:
        measure(model)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from pytest_proofpack.edits.scope import scope_taken, select_matrices
from pytest_proofpack.edits.target import EditReport, Originals, Target, edit_target
from pytest_proofpack.models.layout import ModelLayout
from pytest_proofpack.plan.edit_kinds import EDITS, FAULTS, Edit
from pytest_proofpack.plan.edit_specs import parse_scope, validated
from pytest_proofpack.plan.records import EditSpec, FaultSpec


@contextlib.contextmanager
def edited(
    model: PreTrainedModel,
    layout: ModelLayout,
    edit: EditSpec | FaultSpec,
    *,
    seed: int,
    originals: Originals | None = None,
) -> Iterator[EditReport]:
    """Apply an edit or an error injection to ``model`` for the length of the body.

    Afterwards the model is as before, bit for bit: parameters with identity and storage, structure, tied weights and
    configuration. Only what is touched is kept meanwhile.

    Args:
        model: the baseline, changed in place.
        layout: what :func:`pytest_proofpack.models.layout.analyze_layout` says about it.
        edit: what to do.
        seed: of whatever it draws at random.
        originals: where to keep what is touched; by default on its device, or in host memory.

    Raises:
        ConfigurationError: an unknown kind, unusable parameters, or a scope or fault that does not fit the model.
        RestoreError: at the end, a file that was needed has changed meanwhile. The model is not as before.
    """
    with edit_target(model, layout, originals) as target:
        details = _change(target, edit, seed)
        yield EditReport(edit.type, tuple(target.touched), details, target.original)


def _change(target: Target, edit: EditSpec | FaultSpec, seed: int) -> dict[str, Any]:
    if isinstance(edit, FaultSpec):
        return FAULTS.require(edit.type).apply(target, seed)
    kind = EDITS[validated(edit).type]
    views = select_matrices(target.model, target.layout, edit.scope) if kind.scoped else []
    for view in views:
        target.keep(view.parameter)
    with torch.inference_mode():  # an edit is hundreds of small steps, each quicker without autograd's records
        return {**kind.apply(views, edit.parameters, seed), **_other_scope(target.layout, edit, kind)}


def _other_scope(layout: ModelLayout, edit: EditSpec, kind: Edit) -> dict[str, Any]:
    """Return what a scope stood for, where the model has nothing of what it names."""
    asked = parse_scope(edit.scope).group if kind.scoped else None
    taken = asked if asked is None else scope_taken(layout, asked)
    return {} if taken == asked else {"scope_taken": taken}
