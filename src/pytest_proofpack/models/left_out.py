"""What a layout could not tell, what of a model a pass over text leaves out, why a model is refused: in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel

from pytest_proofpack.common.words import error_line, first_of
from pytest_proofpack.models.blocks import Child
from pytest_proofpack.models.probing import Recording, sees_ahead

_SHOWN, _LONGEST = 4, 200
FFN, ATTN, OTHER = "ffn", "attn", "other"
_MOST_OUTSIDE = 0.25
"""Of the weights that a pass over text uses, embeddings and head aside, as many may stand outside of the blocks."""


def layout_warnings(
    model: PreTrainedModel,
    recording: Recording,
    children: Sequence[Child],
    roles: Mapping[str, str],
    unsettled: Mapping[str, str],
) -> Iterator[str]:
    """Yield sentences.

    Args:
        model: the model.
        recording: of a pass over text.
        children: of the blocks.
        roles: the group of each child, by its path.
        unsettled: why a child could not be probed, by its path.
    """
    if recording.error is not None:
        yield f"The model could not be run on a probe input, so its blocks stay unclassed: {_reason(recording.error)}"
        return
    for name, why in unsettled.items():
        yield f"{name} could not be probed and is classed as other: it {why}"
    if children and FFN not in roles.values():
        yield "No block has a feed-forward layer, so the scope ffn stands for all."
    if uncalled := list(_uncalled(model, recording, children)):
        total = sum(parameter.numel() for parameter in model.parameters())
        used = total - _size(model, uncalled)
        shown = first_of(uncalled, _SHOWN)
        yield f"A pass over text uses {used} of {total} parameters; only they are certified. Left out: {shown}."


def why_refused(
    model: PreTrainedModel,
    recording: Recording,
    groups: Mapping[str, str],
    weights: Mapping[str, int],
    blocks_name: str,
) -> str:
    """Return why a model cannot be certified as a decoder, in a sentence without its subject; "" if it can.

    Args:
        model: the model.
        recording: of a pass over text.
        groups: the group of every parameter.
        weights: names of the parameters that hold weight matrices.
        blocks_name: path of the list of blocks.
    """
    if recording.error is not None:
        return f"does not compute logits from token ids alone ({_reason(recording.error)})"
    if ATTN not in groups.values():
        return "has no list of blocks in which something mixes positions"
    inside = outside = 0
    for name in weights:
        if name.rpartition(".")[0] in recording.called and groups[name] in {FFN, ATTN, OTHER}:
            size = model.get_parameter(name).numel()
            inside += size * name.startswith(f"{blocks_name}.")
            outside += size * (not name.startswith(f"{blocks_name}."))
    if outside > _MOST_OUTSIDE * (inside + outside):
        share = round(100 * outside / (inside + outside))
        return f"computes with {share} % of its weights outside of {blocks_name}, so it is not one stack of blocks"
    vocabulary = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    ahead = sees_ahead(model, vocabulary, recording)
    return "is no decoder: what it predicts at a position depends on later tokens" if ahead else ""


def _reason(error: Exception) -> str:
    return error_line(error)[:_LONGEST]


def _uncalled(model: PreTrainedModel, recording: Recording, children: Sequence[Child]) -> Iterator[str]:
    """Yield the outermost modules of which a pass over text calls nothing, but for what is inside children of blocks.

    Experts that no token of the probe chose are such insides. So are modules that share their parameters with others.
    """
    inside = tuple(f"{child.name}." for child in children)
    used = {id(own) for name in recording.called for own in model.get_submodule(name).parameters(recurse=False)}
    found: list[str] = []
    for name, module in model.named_modules():
        if not name or name.startswith((*inside, *(f"{outer}." for outer in found))):
            continue
        own = [id(parameter) for parameter in module.parameters()]
        if own and not used & set(own) and not recording.called_within(name):
            found.append(name)
    yield from found


def _size(model: nn.Module, names: Sequence[str]) -> int:
    parameters = {own: None for name in names for own in model.get_submodule(name).parameters()}
    return sum(parameter.numel() for parameter in parameters)
