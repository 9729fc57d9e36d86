"""Which group every parameter of a causal language model belongs to, from structure and behaviour.

Names say little that holds across architectures, so none is looked at:

- blocks: the ModuleList of length ``num_hidden_layers``;
- attn: a child of a block whose output at the last position changes when only position 0 of its input changes;
  every other child of a block is ffn (a gated feed-forward layer's gate included);
- router: in a feed-forward child with experts, a 2-D parameter whose first dimension is the number of experts and
  whose owner holds no 3-D parameter (those next to 3-D parameters are the experts' biases);
- norm: an element-wise parameter whose owner's output does not change with the scale of the input;
- embed and head: ``get_input_embeddings`` and ``get_output_embeddings``, and any other embedding outside the blocks
  (learned positions);
- other: the rest.

The baseline is analysed, never an edited model: the probes need working weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_proofpack.models import probing
from pytest_proofpack.models.probing import PROBE_ERRORS, Call, Unanswerable
from pytest_proofpack.models.qkv import QkvPacking, fused_qkv


class ParameterGroup(StrEnum):
    """What a parameter is for."""

    FFN = "ffn"
    ATTN = "attn"
    EMBED = "embed"
    ROUTER = "router"
    NORM = "norm"
    HEAD = "head"
    OTHER = "other"


@dataclass(frozen=True)
class Sublayer:
    """A block's attention or feed-forward child whose output is added to the residual stream.

    Attributes:
        name: the module's path in the model; its output (the first tensor, if a tuple) has the hidden size.
        block: index of the block.
        group: ffn or attn.
    """

    name: str
    block: int
    group: ParameterGroup


@dataclass(frozen=True)
class ModelLayout:
    """The structure of one model.

    Attributes:
        groups: group of every parameter of ``named_parameters()``. A tied head has no entry: its parameter is the
            embedding's, see ``head_name`` and ``head_tied``.
        block_of: index of the block that holds the parameter, None outside of the blocks.
        blocks: path of the ModuleList of blocks, "" if none was found.
        block_count: number of blocks.
        sublayers: attention and feed-forward sublayers, in the order of the module tree.
        head_name: full name of the head's weight, None if the model has no head.
        head_tied: whether the head's weight is the embedding's, by identity.
        qkv: packing of every fused query-key-value matrix that could be told, by parameter name.
        expert_count: experts per feed-forward layer, 0 if there are none.
        warnings: what could not be told, in sentences.
    """

    groups: Mapping[str, ParameterGroup]
    block_of: Mapping[str, int | None]
    blocks: str
    block_count: int
    sublayers: tuple[Sublayer, ...]
    head_name: str | None
    head_tied: bool
    qkv: Mapping[str, QkvPacking]
    expert_count: int
    warnings: tuple[str, ...]

    def names(self, *groups: ParameterGroup) -> tuple[str, ...]:
        """Return the parameters of these groups, in the model's order."""
        return tuple(name for name, group in self.groups.items() if group in groups)


@dataclass(frozen=True)
class _Child:
    """A child of a block that has parameters; ``module`` stands at path ``name`` in block number ``block``."""

    name: str
    block: int
    module: nn.Module


def analyze_layout(model: PreTrainedModel) -> ModelLayout:
    """Tell the group of every parameter; see the module's description.

    The model is run on a few tokens. Its weights, modes and the global random state stay as they were, and no
    gradient is computed. What cannot be told is classed as other, and recorded in ``warnings``.
    """
    warnings: list[str] = []
    blocks_name, blocks = _find_blocks(model, warnings)
    children = list(_block_children(blocks, blocks_name))
    with probing.undisturbed(model):
        calls = _record_calls(model, children, warnings)
        norms = {name for name, call in calls.items() if _is_norm(call)}
        children = [child for child in children if _has_parameters_beside(child, norms)]
        roles = {child.name: _child_group(child, calls, warnings) for child in children}
        sublayers = tuple(_sublayers(model, children, roles, calls))
        attention = [child for child in children if roles[child.name] is ParameterGroup.ATTN]
        qkv = {
            name: packing for child in attention for name, packing in fused_qkv(model, child.name, calls[child.name])
        }
    _warn_of_blocks_without_attention(len(blocks), children, roles, warnings)
    feed_forward = [child for child in children if roles[child.name] is ParameterGroup.FFN]
    routers = {name: child for child in feed_forward for name in _router_parameters(child)}
    within = {name: roles[child.name] for child in children for name in _parameter_names(child)}
    within |= dict.fromkeys(routers, ParameterGroup.ROUTER)
    block_of = {name: _block_index(name, blocks_name) for name, _ in model.named_parameters()}
    head_name, head_tied = _find_head(model)
    return ModelLayout(
        groups={name: _group(model, name, norms, within) for name in block_of},
        block_of=block_of,
        blocks=blocks_name,
        block_count=len(blocks),
        sublayers=sublayers,
        head_name=head_name,
        head_tied=head_tied,
        qkv=qkv,
        expert_count=max((_expert_count(child.module) for child in routers.values()), default=0),
        warnings=tuple(warnings),
    )


def input_embedding(model: PreTrainedModel) -> nn.Embedding:
    """Return the module that embeds tokens."""
    return cast("nn.Embedding", model.get_input_embeddings())


def output_head(model: PreTrainedModel) -> nn.Linear | None:
    """Return the module that makes logits, or None if the model has none."""
    return cast("nn.Linear | None", model.get_output_embeddings())  # type: ignore[no-untyped-call]


def _group(model: PreTrainedModel, name: str, norms: set[str], within: Mapping[str, ParameterGroup]) -> ParameterGroup:
    """Class one parameter; ``within`` holds the classes of those in children of blocks."""
    owner_name = name.rpartition(".")[0]
    owner = model.get_submodule(owner_name)
    if owner is input_embedding(model):
        return ParameterGroup.EMBED
    if owner is output_head(model):
        return ParameterGroup.HEAD
    if owner_name in norms:
        return ParameterGroup.NORM
    if name in within:
        return within[name]
    return ParameterGroup.EMBED if isinstance(owner, nn.Embedding) else ParameterGroup.OTHER


def _find_blocks(model: PreTrainedModel, warnings: list[str]) -> tuple[str, nn.ModuleList]:
    """Return path and list of the blocks; of several candidates, the one with the most parameters."""
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        warnings.append("The model holds no ModuleList, so no blocks were found.")
        return "", nn.ModuleList()
    candidates = [(name, module) for name, module in lists if len(module) == expected]
    if not candidates:
        name, module = max(lists, key=lambda item: len(item[1]))
        warnings.append(f"No ModuleList has num_hidden_layers = {expected} entries; {name} ({len(module)}) is taken.")
        return name, module
    return max(candidates, key=lambda item: sum(parameter.numel() for parameter in item[1].parameters()))


def _block_children(blocks: nn.ModuleList, blocks_name: str) -> Iterator[_Child]:
    """Yield the children of every block that have parameters; containers, which are never called, are opened."""
    for index, block in enumerate(blocks):
        pending = [(f"{blocks_name}.{index}.{name}", module) for name, module in block.named_children()]
        while pending:
            name, module = pending.pop(0)
            if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                pending = [(f"{name}.{key}", inner) for key, inner in module.named_children()] + pending
            elif any(True for _ in module.parameters()):
                yield _Child(name, index, module)


def _record_calls(model: PreTrainedModel, children: list[_Child], warnings: list[str]) -> dict[str, Call]:
    """Run the model once, watching the children of blocks and whatever may be a norm."""
    watched = {child.name: child.module for child in children}
    watched |= {name: module for name, module in model.named_modules() if _may_be_norm(module)}
    try:
        return probing.record_calls(model, watched, input_embedding(model).num_embeddings)
    except PROBE_ERRORS as error:
        warnings.append(f"The model could not be run on a probe input, so its blocks stay unclassed: {error}")
        return {}


def _may_be_norm(module: nn.Module) -> bool:
    is_leaf = next(module.children(), None) is None
    owns = next(module.parameters(recurse=False), None) is not None
    return is_leaf and owns and not isinstance(module, (nn.Linear, nn.Embedding, Conv1D))


def _is_norm(call: Call) -> bool:
    """Tell whether the module scales element by element, and ignores the scale of its input."""
    if not _may_be_norm(call.module):
        return False
    shape = call.hidden.shape
    if any(own.shape != shape[len(shape) - own.ndim :] for own in call.module.parameters(recurse=False)):
        return False
    try:
        return probing.ignores_scale(call)
    except PROBE_ERRORS:
        return False


def _has_parameters_beside(child: _Child, norms: set[str]) -> bool:
    return any(name.rpartition(".")[0] not in norms for name in _parameter_names(child))


def _parameter_names(child: _Child) -> Iterable[str]:
    return (name for name, _ in child.module.named_parameters(prefix=child.name))


def _child_group(child: _Child, calls: Mapping[str, Call], warnings: list[str]) -> ParameterGroup:
    """Class a child of a block by whether it mixes positions."""
    call = calls.get(child.name)
    try:
        if call is None:
            raise Unanswerable("is not called, or without hidden states")
        return ParameterGroup.ATTN if probing.mixes_positions(call) else ParameterGroup.FFN
    except PROBE_ERRORS as error:
        warnings.append(f"{child.name} could not be probed and is classed as other: it {error}")
        return ParameterGroup.OTHER


def _warn_of_blocks_without_attention(
    block_count: int, children: list[_Child], roles: Mapping[str, ParameterGroup], warnings: list[str]
) -> None:
    mixing = {child.block for child in children if roles[child.name] is ParameterGroup.ATTN}
    if without := [index for index in range(block_count) if index not in mixing]:
        warnings.append(f"No child of these blocks mixes positions, so they have no attention: {without}")


def _sublayers(
    model: PreTrainedModel, children: list[_Child], roles: Mapping[str, ParameterGroup], calls: Mapping[str, Call]
) -> Iterator[Sublayer]:
    """Yield the children whose output has the hidden size: of fc1 and fc2 side by side, only fc2."""
    hidden_size = getattr(model.config.get_text_config(), "hidden_size", None)
    for child in children:
        group = roles[child.name]
        if group is ParameterGroup.OTHER:
            continue
        if hidden_size in (None, probing.output_features(calls[child.name])):
            yield Sublayer(child.name, child.block, group)


def _expert_count(module: nn.Module) -> int:
    """Return the number of experts: first dimension of 3-D parameters, or length of a list of modules."""
    for parameter in module.parameters():
        if parameter.ndim == 3:
            return int(parameter.shape[0])
    lists = (len(inner) for inner in module.modules() if isinstance(inner, nn.ModuleList))
    return max(lists, default=0)


def _router_parameters(child: _Child) -> Iterator[str]:
    """Yield the router's matrix and the vectors beside it."""
    count = _expert_count(child.module)
    inside_experts = tuple(
        f"{name}."
        for name, module in child.module.named_modules(prefix=child.name)
        if isinstance(module, nn.ModuleList)
    )
    for owner_name, owner in child.module.named_modules(prefix=child.name):
        own = dict(owner.named_parameters(recurse=False))
        dimensions = {parameter.ndim for parameter in own.values()}
        is_router = 2 in dimensions and 3 not in dimensions and not f"{owner_name}.".startswith(inside_experts)
        if count > 1 and is_router and all(parameter.shape[0] == count for parameter in own.values()):
            yield from (f"{owner_name}.{name}" for name in own)


def _block_index(name: str, blocks_name: str) -> int | None:
    prefix = f"{blocks_name}."
    return int(name.removeprefix(prefix).split(".")[0]) if blocks_name and name.startswith(prefix) else None


def _find_head(model: PreTrainedModel) -> tuple[str | None, bool]:
    """Return the full name of the head's weight, and whether it is the embedding's."""
    head = output_head(model)
    if head is None:
        return None, False
    name = next(name for name, module in model.named_modules() if module is head)
    return f"{name}.weight", head.weight is input_embedding(model).weight
