"""Error injections that change values: each damages a model the way a broken edit or a broken file would.

Which elements and matrices are hit follows from the seed alone.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from pytest_proofpack.edits.seeds import derived_seed
from pytest_proofpack.plan.edit_kinds import Fault

if TYPE_CHECKING:
    from pytest_proofpack.edits.target import Target
    from pytest_proofpack.models.matrices import MatrixView

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
    from pytest_proofpack.edits.rounding import quantize_with_one_scale
    from pytest_proofpack.models.matrices import every_matrix

    views = every_matrix(target.model, target.layout)
    for view in views:
        target.keep(view.parameter)
        quantize_with_one_scale(view, bits=2)
    return {"matrices": len(views), "bits": 2}


def explode_scale(target: Target, seed: int) -> dict[str, Any]:
    """Multiply one feed-forward matrix by 100."""
    view = random.Random(seed).choice(_matrices(target, "ffn"))
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
    from pytest_proofpack.edits.approximation import best_of_rank, random_sketch

    matrix = view.read()
    collapsed, _ = best_of_rank(matrix, 1, random_sketch(matrix.shape[1], 1, seed, matrix.device))
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
    view = choice.choice(_matrices(target, "all"))
    row, column = (choice.randrange(size) for size in view.shape)
    target.keep(view.parameter)
    view.set_element(row, column, value)
    return {"matrix": view.label, "row": row, "column": column}


def _some_attention_matrices(target: Target, seed: int, count: int) -> list[MatrixView]:
    """Choose ``count`` attention parameters, or all if there are fewer; return their matrices.

    A fused query-key-value parameter counts once, and is hit in all of its parts: detectors count parameters.
    """
    views = _matrices(target, "attn")
    parameters = list(dict.fromkeys(view.parameter for view in views))
    chosen = set(random.Random(seed).sample(parameters, min(count, len(parameters))))
    return [view for view in views if view.parameter in chosen]


def _matrices(target: Target, scope: str) -> list[MatrixView]:
    from pytest_proofpack.edits.scope import select_matrices

    return select_matrices(target.model, target.layout, scope)


NAN_INJECTION = Fault("nan_injection", inject_nan, "one weight becomes NaN")
INF_INJECTION = Fault("inf_injection", inject_inf, "one weight becomes infinite")
EXTREME_QUANT = Fault(
    "extreme_quant", quantize_extremely, "every matrix of the model is rounded to 2 bits with a single scale", cost=1.6
)
SCALE_EXPLOSION = Fault("scale_explosion", explode_scale, "one feed-forward matrix is multiplied by 100")
RANK_COLLAPSE = Fault(
    "rank_collapse", collapse_rank, "eight attention matrices are reduced to rank 1, their norms kept", cost=1.6
)
NORM_COLLAPSE = Fault("norm_collapse", collapse_norm, "up to 32 attention matrices become zero")
