"""From a scope to the matrices that an edit changes. Embeddings, head, norms, router and biases are in no scope."""

from __future__ import annotations

from transformers import PreTrainedModel

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.layout import ModelLayout, ParameterGroup
from pytest_proofpack.models.matrices import MatrixView, matrix_views
from pytest_proofpack.plan.edit_specs import Scope, parse_scope

_SCOPE_GROUPS = {
    "ffn": (ParameterGroup.FFN,),
    "attn": (ParameterGroup.ATTN,),
    "all": (ParameterGroup.FFN, ParameterGroup.ATTN),
}


def select_matrices(model: PreTrainedModel, layout: ModelLayout, scope: str) -> list[MatrixView]:
    """Return the matrices that lie in a scope, in the model's order.

    Where no block has a matrix of the scope's group (state-space models have no feed-forward layers), it stands for
    all.

    Args:
        model: a model.
        layout: its structure.
        scope: see :mod:`pytest_proofpack.plan.edit_specs`.

    Raises:
        ConfigurationError: a bad scope, a layer beyond the model's last, or a scope that selects nothing.
    """
    parsed = parse_scope(scope)
    _require_existing_layer(parsed, layout)
    group = scope_taken(layout, parsed.group)
    names = [
        name
        for name in layout.names(*_SCOPE_GROUPS[group])
        if (block := layout.block_of[name]) is not None and parsed.includes(block)
    ]
    views = matrix_views(model, layout, names)
    if not views:
        reason = " ".join(layout.warnings) or "Its layout knows no such matrix."
        raise ConfigurationError(f"The scope {scope} selects no matrix of {type(model).__name__}. {reason}")
    return views


def scope_taken(layout: ModelLayout, group: str) -> str:
    """Return the group of matrices that a scope stands for: its own, or ``all`` where the model has none of that."""
    return group if any(name in layout.weights for name in layout.names(*_SCOPE_GROUPS[group])) else "all"


def _require_existing_layer(scope: Scope, layout: ModelLayout) -> None:
    last_needed = scope.layer if scope.layer is not None else (scope.first_layers or 1) - 1
    if last_needed >= layout.block_count:
        asked = f"@layer={scope.layer}" if scope.layer is not None else f"@layers={scope.first_layers}"
        raise ConfigurationError(
            f"scope {scope.group}{asked} does not fit: the model has {layout.block_count} layers, so expected "
            f"@layer=0 to @layer={layout.block_count - 1}, or @layers=1 to @layers={layout.block_count}."
        )
