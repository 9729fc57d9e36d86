"""Error injections that change a model's structure: its vocabulary, its depth, its tied weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_proofpack.edits.broken import silence_if_broken
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.edit_kinds import Fault

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pytest_proofpack.edits.target import Target

EXTRA_TOKENS = 8


def enlarge_vocabulary(target: Target, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Add eight rows to the embedding, to the head and to the configuration's vocabulary.

    New rows are the mean of the old ones, as transformers makes them: losses hardly change.
    """
    from pytest_proofpack.models.layout import input_embedding, output_head

    model, layout = target.model, target.layout
    embedding, head = input_embedding(model), output_head(model)
    before = embedding.num_embeddings
    after = before + EXTRA_TOKENS
    tied = layout.head_tied
    changed = [embedding.weight, None if tied or head is None else head.weight, getattr(head, "bias", None)]
    target.touched.update({_name_of(target, own): None for own in changed if own is not None})
    enlarged = _with_mean_rows(target, embedding.weight)
    target.replace(embedding, "weight", enlarged)
    target.replace(embedding, "num_embeddings", after)
    if head is not None:
        target.replace(head, "weight", enlarged if tied else _with_mean_rows(target, head.weight))
        target.replace(head, "out_features", after)
        if getattr(head, "bias", None) is not None:
            target.replace(head, "bias", _with_mean_rows(target, head.bias))
    for module in model.modules():
        # Causal models remember the vocabulary's size for their loss.
        if vars(module).get("vocab_size") == before:
            target.replace(module, "vocab_size", after)
    target.configure(model.config.get_text_config(), vocab_size=after)
    return {"vocabulary": [before, after], "tied": tied}


def drop_last_block(target: Target, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Remove the last block, and adjust the configuration so that the model runs without it.

    Some models cannot: others of their parts have sizes that count the blocks. They answer with NaN, and say why.

    Raises:
        ConfigurationError: the model has fewer than two blocks.
    """
    from torch import nn

    layout, count = target.layout, target.layout.block_count
    if count < 2:
        raise ConfigurationError(f"missing_tensors needs a model with two or more layers; this one has {count}.")
    owner_name, _, attribute = layout.blocks.rpartition(".")
    blocks = target.model.get_submodule(layout.blocks)
    assert isinstance(blocks, nn.ModuleList)
    removed = [name for name, block in layout.block_of.items() if block == count - 1]
    target.touched.update(dict.fromkeys(removed))
    target.replace(target.model.get_submodule(owner_name), attribute, blocks[:-1])
    config = target.model.config.get_text_config()
    per_block = {key: value[:-1] for key, value in vars(config).items() if _is_per_block(value, count)}
    target.configure(config, num_hidden_layers=count - 1, **per_block)
    reason = silence_if_broken(target)
    return {"blocks": [count, count - 1], "removed": removed, **({"does_not_compute": reason} if reason else {})}


def break_tying(target: Target, seed: int) -> dict[str, Any]:  # noqa: ARG001
    """Give a tied head a copy of its own, or tie an untied head to the embedding; the configuration follows.

    Raises:
        ConfigurationError: the model has no head.
    """
    from torch import nn

    from pytest_proofpack.models.layout import input_embedding, output_head

    model, layout = target.model, target.layout
    head, embedding = output_head(model), input_embedding(model)
    if head is None or layout.head_name is None:
        raise ConfigurationError(f"weight_tying_break needs a model with a head; {type(model).__name__} has none.")
    if not layout.head_tied and head.weight.shape != embedding.weight.shape:
        raise ConfigurationError(
            f"weight_tying_break cannot tie: the head is {tuple(head.weight.shape)}, "
            f"the embedding {tuple(embedding.weight.shape)}."
        )
    weight = nn.Parameter(head.weight.detach().clone()) if layout.head_tied else embedding.weight
    target.touched[layout.head_name] = None
    target.replace(head, "weight", weight)
    if (hook := getattr(head, "_hf_hook", None)) is not None:  # accelerate sends its input where the weight was
        target.replace(hook, "execution_device", weight.device)
    for config in {id(config): config for config in (model.config, model.config.get_text_config())}.values():
        target.configure(config, tie_word_embeddings=not layout.head_tied)
    return {"tied": [layout.head_tied, not layout.head_tied], "head": layout.head_name}


def _with_mean_rows(target: Target, weight: Tensor) -> nn.Parameter:
    """Return a parameter with :data:`EXTRA_TOKENS` more rows, each the mean of those of ``weight``.

    It is to take the place of ``weight``, which is set aside where its device cannot hold both.
    """
    import torch
    from torch import nn

    from pytest_proofpack.models.slabs import row_slabs

    count, device = len(weight), weight.device
    mean = sum(slab.float().sum(dim=0) for slab in row_slabs(weight)) / count
    target.set_aside(weight)
    enlarged = torch.empty(count + EXTRA_TOKENS, *weight.shape[1:], dtype=weight.dtype, device=device)
    enlarged[:count] = weight.detach()
    enlarged[count:] = mean
    return nn.Parameter(enlarged, requires_grad=weight.requires_grad)


def _is_per_block(value: object, count: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == count


def _name_of(target: Target, parameter: Tensor) -> str:
    """Return the name under which the layout knows a parameter: the first, of a tied one."""
    return next(name for name in target.layout.groups if target.model.get_parameter(name) is parameter)


SHAPE_MISMATCH = Fault("shape_mismatch", enlarge_vocabulary, "embedding and head gain eight rows")
MISSING_TENSORS = Fault("missing_tensors", drop_last_block, "the last block is removed")
WEIGHT_TYING_BREAK = Fault("weight_tying_break", break_tying, "a tied head is untied, or an untied one tied")
