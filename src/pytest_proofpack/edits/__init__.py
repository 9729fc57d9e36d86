"""Edits and error injections, in memory: applied in place, undone bit for bit.

Example::

    layout = analyze_layout(model)
    with edited(model, layout, parse_edit_spec("quant_rtn:4:32:ffn"), seed=0) as report:
        measure(model)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from pytest_proofpack.edits.faults import (
    collapse_norm,
    collapse_rank,
    explode_scale,
    inject_inf,
    inject_nan,
    quantize_extremely,
)
from pytest_proofpack.edits.float8 import apply_fp8_quant
from pytest_proofpack.edits.lowrank import apply_lowrank_svd
from pytest_proofpack.edits.prune import apply_magnitude_prune
from pytest_proofpack.edits.quantize import apply_quant_rtn
from pytest_proofpack.edits.scope import select_matrices
from pytest_proofpack.edits.stored import StoredWeights
from pytest_proofpack.edits.structural_faults import break_tying, drop_last_block, enlarge_vocabulary
from pytest_proofpack.edits.target import EditReport, Target, edit_target
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.layout import ModelLayout
from pytest_proofpack.models.matrices import MatrixView
from pytest_proofpack.plan.edit_specs import NOOP, validated
from pytest_proofpack.plan.records import EditSpec

__all__ = ["EDITS", "FAULTS", "EditReport", "StoredWeights", "edited", "injected"]

EDITS: Mapping[str, Callable[[list[MatrixView], EditSpec, int], dict[str, Any]]] = {
    "quant_rtn": apply_quant_rtn,
    "fp8_quant": apply_fp8_quant,
    "magnitude_prune": apply_magnitude_prune,
    "lowrank_svd": apply_lowrank_svd,
}
"""Edits by type: each changes matrices in place and returns the details of its report."""

FAULTS: Mapping[str, Callable[[Target, int], dict[str, Any]]] = {
    "nan_injection": inject_nan,
    "inf_injection": inject_inf,
    "shape_mismatch": enlarge_vocabulary,
    "missing_tensors": drop_last_block,
    "weight_tying_break": break_tying,
    "extreme_quant": quantize_extremely,
    "scale_explosion": explode_scale,
    "rank_collapse": collapse_rank,
    "norm_collapse": collapse_norm,
}
"""Error injections by name: each changes a target and returns the details of its report."""


@contextlib.contextmanager
def edited(
    model: PreTrainedModel,
    layout: ModelLayout,
    edit: EditSpec,
    *,
    seed: int,
    left_free: int = 0,
    stored: StoredWeights | None = None,
) -> Iterator[EditReport]:
    """Apply an edit to ``model`` for the length of the body; afterwards the model is as before, bit for bit.

    Copies are kept of the touched parameters only, on their device if it has room; else they are read again from the
    files. Parameters keep identity and storage.

    Args:
        model: the baseline, changed in place.
        layout: what :func:`pytest_proofpack.models.layout.analyze_layout` says about it.
        edit: what to do.
        seed: of whatever the edit draws at random.
        left_free: bytes that copies must leave free on each device, as the memory plan says.
        stored: the files that the model was loaded from; None for a model that has none, or not these values.

    Raises:
        ConfigurationError: unusable parameters, or a scope that does not fit the model.
        RestoreError: at the end, a file that was needed has changed meanwhile. The model is not as before.
    """
    validated(edit)
    with edit_target(model, layout, left_free=left_free, stored=stored) as target:
        details: dict[str, Any] = {}
        if edit.type != NOOP:
            views = select_matrices(model, layout, edit.scope)
            for view in views:
                target.keep(view.parameter)
            with torch.inference_mode():  # an edit is hundreds of small steps, each quicker without autograd's records
                details = EDITS[edit.type](views, edit, seed)
        yield EditReport(edit.type, tuple(target.touched), details)


@contextlib.contextmanager
def injected(
    model: PreTrainedModel,
    layout: ModelLayout,
    fault: str,
    *,
    seed: int,
    left_free: int = 0,
    stored: StoredWeights | None = None,
) -> Iterator[EditReport]:
    """Inject an error into ``model`` for the length of the body; afterwards the model is as before.

    Structure, tied weights and configuration are put back too. Other arguments and errors: see :func:`edited`.
    """
    if fault not in FAULTS:
        raise ConfigurationError(f"The error type {fault!r} is unknown; expected one of {list(FAULTS)}.")
    with edit_target(model, layout, left_free=left_free, stored=stored) as target:
        details = FAULTS[fault](target, seed)
        yield EditReport(fault, tuple(target.touched), details)
