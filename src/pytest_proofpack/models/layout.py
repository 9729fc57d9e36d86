"""Which group every parameter of a causal language model belongs to, from structure and behaviour.

Names say little that holds across architectures, so none is looked at:

- blocks: the ModuleList whose length is the number of layers, of those that a pass over text calls;
- attn: a child of a block whose output at the last position changes when its input does at earlier ones, so state
  spaces and short convolutions too; every other child of a block is ffn (a gated feed-forward layer's gate included).
  All modules of a kind are of one group; a block inside a block is opened; see :mod:`pytest_proofpack.models.blocks`;
- router: beside experts, a 2-D parameter whose first dimension is the number of experts; see
  :mod:`pytest_proofpack.models.experts`;
- norm: an element-wise parameter whose owner's output does not change with the scale of the input;
- embed and head: ``get_input_embeddings`` and ``get_output_embeddings``, and any other embedding outside the blocks
  (learned positions);
- other: the rest.

The baseline is analysed, never an edited model: the probes need working weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models import probing
from pytest_proofpack.models.blocks import Child, block_children, find_blocks
from pytest_proofpack.models.experts import Experts, Router, configured_counts, find_experts
from pytest_proofpack.models.left_out import layout_warnings, why_refused
from pytest_proofpack.models.mixing import Mixing
from pytest_proofpack.models.probing import PROBE_ERRORS, Call, Recording
from pytest_proofpack.models.qkv import QkvPacking, fused_qkv
from pytest_proofpack.models.suited import stated


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
        name: the module's path in the model; its output (the first entry, if a tuple or list) has the hidden size.
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
        groups: group of every parameter of ``named_parameters()``. A tied head has no entry of its own: its parameter
            is the embedding's, under whichever name comes first, see ``head_name`` and ``head_tied``.
        block_of: index of the block that holds the parameter, None outside of the blocks.
        blocks: path of the ModuleList of blocks, "" if none was found.
        block_count: number of blocks.
        sublayers: attention and feed-forward sublayers, in the order of the module tree.
        head_name: full name of the head's weight, None if the model has no head.
        head_tied: whether the head's weight is the embedding's, by identity.
        qkv: packing of every fused query-key-value matrix that could be told, by parameter name.
        expert_count: experts per layer, 0 if there are none; the largest number where they differ.
        warnings: what could not be told, in sentences.
        weights: how many weight matrices lie in each parameter that holds any: 1, or one per expert. Edits change
            these and nothing else.
        routers: what chooses among experts, by the path of the module that owns its matrix.
        refusal: why the model cannot be certified, in a sentence without its subject; "" if it can.
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
    weights: Mapping[str, int] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    refusal: str = ""

    def names(self, *groups: ParameterGroup) -> tuple[str, ...]:
        """Return the parameters of these groups, in the model's order."""
        return tuple(name for name, group in self.groups.items() if group in groups)


def analyze_layout(model: PreTrainedModel) -> ModelLayout:
    """Tell the group of every parameter; see the module's description.

    The model is run on a few tokens. Its weights, modes and the global random state stay as they were, and no
    gradient is computed. What cannot be told is classed as other, and recorded in ``warnings``.
    """
    warnings: list[str] = []
    with probing.undisturbed(model):
        recording = probing.record_calls(model, input_embedding(model).num_embeddings)
        calls = recording.calls
        blocks_name, blocks = find_blocks(model, recording, warnings)
        norms = _norms(model, recording)
        children, mixing = block_children(
            *(blocks, blocks_name, norms),
            lambda found: Mixing(recording, [(child.name, child.module) for child in found]),
        )
        roles, unsettled = _roles(children, mixing, recording)
        sublayers = tuple(_sublayers(model, children, roles, calls))
        attention = [child for child in children if roles[child.name] is ParameterGroup.ATTN and child.name in calls]
        qkv = {
            name: packing for child in attention for name, packing in fused_qkv(model, child.name, calls[child.name])
        }
        experts = _experts(model, children, roles)
        within = {name: roles[child.name] for child in children for name in _parameter_names(child)}
        within |= {name: ParameterGroup.ROUTER for own in experts.values() for name in own.router}
        groups = {name: _group(model, name, norms, within) for name, _ in model.named_parameters()}
        weights = dict(_weights(model, groups, calls, experts))
        refusal = why_refused(model, recording, groups, weights, blocks_name)
    warnings += layout_warnings(model, recording, children, roles, unsettled)
    head_name, head_tied = _find_head(model)
    return ModelLayout(
        groups=groups,
        block_of={name: _block_index(name, blocks_name) for name in groups},
        blocks=blocks_name,
        block_count=len(blocks),
        sublayers=sublayers,
        head_name=head_name,
        head_tied=head_tied,
        qkv=qkv,
        expert_count=max((own.count for own in experts.values() if own.router), default=0),
        warnings=tuple(warnings),
        weights=weights,
        routers=dict(_routers(experts, recording)),
        refusal=refusal,
    )


def require_decoder(name: str, layout: ModelLayout) -> None:
    """Make sure that a model is a decoder whose blocks were found: nothing else can be certified.

    Raises:
        ConfigurationError: it is not.
    """
    if layout.refusal:
        raise ConfigurationError(f"{name} cannot be certified: it {layout.refusal}.")


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
    if owner is input_embedding(model) or model.get_parameter(name) is input_embedding(model).weight:
        return ParameterGroup.EMBED
    if owner is output_head(model):
        return ParameterGroup.HEAD
    if owner_name in norms:
        return ParameterGroup.NORM
    if name in within:
        return within[name]
    return ParameterGroup.EMBED if isinstance(owner, nn.Embedding) else ParameterGroup.OTHER


def _norms(model: PreTrainedModel, recording: Recording) -> set[str]:
    """Return the paths of all norms: those that behave so, and those of their classes that were not called."""
    norms = {name: call.module for name, call in recording.calls.items() if _is_norm(call)}
    kinds = {type(module) for module in norms.values()}
    modules = ((name, module) for name, module in model.named_modules() if name not in recording.called)
    return norms.keys() | {name for name, module in modules if type(module) in kinds and _may_be_norm(module)}


def _may_be_norm(module: nn.Module) -> bool:
    is_leaf = next(module.children(), None) is None
    owns = next(module.parameters(recurse=False), None) is not None
    return is_leaf and owns and not isinstance(module, (nn.Linear, nn.Embedding, Conv1D))


def _is_norm(call: Call) -> bool:
    """Tell whether the module scales element by element, over one last dimension or several, and ignores its scale."""
    if not _may_be_norm(call.module):
        return False
    shape = call.hidden.shape
    trailing = {math.prod(shape[index:]) for index in range(len(shape))}
    for own in call.module.parameters(recurse=False):
        if own.shape != shape[len(shape) - own.ndim :] and not (own.ndim == 1 and own.numel() in trailing):
            return False
    try:
        return probing.ignores_scale(call)
    except PROBE_ERRORS:
        return False


def _parameter_names(child: Child) -> Iterator[str]:
    return (name for name, _ in child.module.named_parameters(prefix=child.name))


def _roles(
    children: list[Child], mixing: Mixing, recording: Recording
) -> tuple[dict[str, ParameterGroup], dict[str, str]]:
    """Class the children of blocks by whether they mix positions; return why some could not be probed, too.

    What a pass over text calls nothing of (cross attention to an image, say) is other, and no riddle.
    """
    roles: dict[str, ParameterGroup] = {}
    unsettled: dict[str, str] = {}
    for child in children:
        if recording.error is None and not recording.called_within(child.name):
            roles[child.name] = ParameterGroup.OTHER
            continue
        try:
            roles[child.name] = ParameterGroup.ATTN if mixing.of(child.name, child.module) else ParameterGroup.FFN
        except PROBE_ERRORS as error:
            roles[child.name] = ParameterGroup.OTHER
            unsettled[child.name] = str(error)
    return roles, unsettled


def _sublayers(
    model: PreTrainedModel, children: list[Child], roles: Mapping[str, ParameterGroup], calls: Mapping[str, Call]
) -> Iterator[Sublayer]:
    """Yield the children whose output has the hidden size: of fc1 and fc2 side by side, only fc2."""
    hidden_size = stated(model.config.get_text_config(), "hidden_size")
    for child in children:
        group = roles[child.name]
        if group is ParameterGroup.OTHER or child.name not in calls:
            continue
        if hidden_size in (None, _output_features(calls[child.name])):
            yield Sublayer(child.name, child.block, group)


def _output_features(call: Call) -> int | None:
    try:
        return probing.output_features(call)
    except PROBE_ERRORS:
        return None


def _experts(model: PreTrainedModel, children: list[Child], roles: Mapping[str, ParameterGroup]) -> dict[str, Experts]:
    """Return the experts of the children that have any."""
    counts, hidden_size = configured_counts(model), stated(model.config.get_text_config(), "hidden_size")
    found = {}
    for child in children:
        role = roles[child.name]
        if role is not ParameterGroup.OTHER:
            in_attention = role is ParameterGroup.ATTN
            found[child.name] = find_experts(child.name, child.module, counts, hidden_size, in_attention=in_attention)
    return {name: own for name, own in found.items() if own.count}


def _routers(experts: Mapping[str, Experts], recording: Recording) -> Iterator[tuple[str, Router]]:
    """Yield what is watched of every router: its own module, or the one around it where that is not called."""
    for child, own in experts.items():
        for owner in dict.fromkeys(name.rpartition(".")[0] for name in own.router):
            watched = own.network or owner
            while watched not in recording.called and watched != child:
                watched = watched.rpartition(".")[0]
            yield owner, Router(owner if watched == child else watched, own.count)


def _weights(
    model: PreTrainedModel,
    groups: Mapping[str, ParameterGroup],
    calls: Mapping[str, Call],
    experts: Mapping[str, Experts],
) -> Iterator[tuple[str, int]]:
    """Yield the parameters that hold weight matrices, with how many; biases, decays and gates of one row hold none."""
    stacked = {name: count for own in experts.values() for name, count in own.stacked.items()}
    for name, parameter in model.named_parameters():
        if name in stacked:
            yield name, stacked[name]
            continue
        is_matrix = parameter.ndim == 2 and min(parameter.shape) > 1 and groups[name] is not ParameterGroup.NORM
        if is_matrix and (groups[name] is ParameterGroup.ROUTER or _multiplies(model, name, calls)):
            yield name, 1


def _multiplies(model: PreTrainedModel, name: str, calls: Mapping[str, Call]) -> bool:
    """Tell whether the owner of a 2-D parameter is a linear layer or a table: by its class, or by what it computes."""
    owner_name, _, attribute = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if isinstance(owner, (nn.Linear, Conv1D, nn.Embedding)):
        return attribute == "weight"
    weight, bias = owner.get_parameter(attribute), getattr(owner, "bias", None)
    try:
        return owner_name in calls and probing.is_linear(calls[owner_name], weight, bias)
    except PROBE_ERRORS:
        return False


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
