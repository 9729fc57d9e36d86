"""Error injections that change values: each damages a model the way a broken edit or a broken file would.

Which elements and matrices are hit follows from the seed alone.
"""

from __future__ import annotations

import math
import random
from typing import Any

from pytest_proofpack.edits.lowrank import best_of_rank
from pytest_proofpack.edits.quantize import quantize_with_one_scale
from pytest_proofpack.edits.scope import select_matrices
from pytest_proofpack.edits.target import Target, derived_seed
from pytest_proofpack.models.matrices import MatrixView, every_matrix

SCALE_FACTOR = 100.0
COLLAPSED_TO_RANK_ONE = 8
COLLAPSED_TO_ZERO = 32


def inject_nan(target: Target, seed: int) -> dict[str, Any]:
    """Set one element of an attention or feed-forward matrix to NaN."""
    return _overwrite_one_element(target, seed, math.nan)


def inject_inf(target: Target, seed: int) -> dict[str, Any]:
    """Set one element of an attention or feed-forward matrix to infinity."""
    return _overwrite_one_element(target, seed, math.inf)


def quantize_extremely(target: Target, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Quantize every matrix of the model, embeddings, head and router included, to 2 bits with a single scale."""
    views = every_matrix(target.model, target.layout)
    for view in views:
        target.keep(view.parameter)
        quantize_with_one_scale(view, bits=2)
    return {"matrices": len(views), "bits": 2}


def explode_scale(target: Target, seed: int) -> dict[str, Any]:
    """Multiply one feed-forward matrix by 100."""
    view = random.Random(seed).choice(select_matrices(target.model, target.layout, "ffn"))
    target.keep(view.parameter)
    for slab in view.slabs():
        slab.write(slab.read() * SCALE_FACTOR)
    return {"matrix": view.label, "factor": SCALE_FACTOR}


def collapse_rank(target: Target, seed: int) -> dict[str, Any]:
    """Reduce eight attention matrices to rank 1, and scale them so that their Frobenius norms stay the same."""
    views = _some_attention_matrices(target, seed, COLLAPSED_TO_RANK_ONE)
    for view in views:
        target.keep(view.parameter)
        _collapse(view, derived_seed(seed, view.label))
    return {"matrices": [view.label for view in views], "rank": 1}


def _collapse(view: MatrixView, seed: int) -> None:
    matrix = view.read()
    collapsed, _ = best_of_rank(matrix, 1, seed)
    view.write(collapsed.mul_(matrix.norm() / collapsed.norm().clamp(min=1e-30)))


def collapse_norm(target: Target, seed: int) -> dict[str, Any]:
    """Set up to 32 attention matrices to zero."""
    views = _some_attention_matrices(target, seed, COLLAPSED_TO_ZERO)
    for view in views:
        target.keep(view.parameter)
        view.write(view.read().zero_())
    return {"matrices": [view.label for view in views]}


def _overwrite_one_element(target: Target, seed: int, value: float) -> dict[str, Any]:
    choice = random.Random(seed)
    view = choice.choice(select_matrices(target.model, target.layout, "all"))
    row, column = (choice.randrange(size) for size in view.shape)
    target.keep(view.parameter)
    view.set_element(row, column, value)
    return {"matrix": view.label, "row": row, "column": column}


def _some_attention_matrices(target: Target, seed: int, count: int) -> list[MatrixView]:
    """Choose ``count`` attention parameters, or all if there are fewer; return their matrices.

    A fused query-key-value parameter counts once, and is hit in all of its parts: detectors count parameters.
    """
    views = select_matrices(target.model, target.layout, "attn")
    parameters = list(dict.fromkeys(view.parameter for view in views))
    chosen = set(random.Random(seed).sample(parameters, min(count, len(parameters))))
    return [view for view in views if view.parameter in chosen]
