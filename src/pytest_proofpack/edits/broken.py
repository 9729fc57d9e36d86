"""Models that do not compute any more once something was taken out: their every answer is NaN, and they say why.

Whoever measures such a model then finds what it would have found in a model that a broken file ruined: losses that are
not finite, and sublayers that are never called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.words import error_line

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pytest_proofpack.edits.target import Target

_TOKENS = 8
_SHOWN = 200


def silence_if_broken(target: Target) -> str:
    """Let a model that cannot run any more answer with NaN until the edit ends; return what its forward pass raised.

    Returns:
        "" for a model that computes.
    """
    reason = _what_fails(target.model)
    if reason:
        from pytest_proofpack.models.layout import input_embedding, output_head

        head, embedding = output_head(target.model), input_embedding(target.model)
        vocabulary, features = (embedding if head is None else head).weight.shape
        if target.model.base_model is not target.model:
            target.answer(target.model.base_model, _answer("last_hidden_state", features, embedding.weight))
        target.answer(target.model, _answer("logits", vocabulary, embedding.weight))
    return reason


def _what_fails(model: PreTrainedModel) -> str:
    import torch

    from pytest_proofpack.common.shortage import what_ran_out
    from pytest_proofpack.models.layout import input_embedding
    from pytest_proofpack.models.probing import PROBE_ERRORS

    tokens = torch.arange(_TOKENS, device=input_embedding(model).weight.device) % input_embedding(model).num_embeddings
    try:
        with torch.inference_mode():
            model(input_ids=tokens[None], use_cache=False)
    except PROBE_ERRORS as error:
        if what_ran_out(error) is not None:
            raise  # that says nothing of the model
        return error_line(error)[:_SHOWN]
    return ""


def _answer(field: str, features: int, like: Tensor) -> Any:
    """Return a forward method that answers with NaN, shape (windows, tokens, features), whatever it is given."""
    from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

    def forward(input_ids: Tensor, **_options: object) -> Any:
        nothing = like.new_full((*input_ids.shape, features), float("nan"))
        if field == "logits":
            return CausalLMOutput(logits=nothing)
        return BaseModelOutput(last_hidden_state=nothing)

    return forward
