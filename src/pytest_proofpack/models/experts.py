"""Mixtures of experts: which parameters hold several experts' matrices, and which ones choose among the experts.

Experts are stacked in a 3-D parameter, stacked in the rows of a 2-D one, or stand in a ModuleList. A stack is believed
to be one of experts only where something else says so too: a router beside it, with as many rows, or a count that the
configuration gives. The weights of convolutions have three dimensions as well, and are none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_MOST_NESTED = 4


@dataclass(frozen=True)
class Router:
    """What chooses the experts of one layer.

    Attributes:
        watched: path of the module whose output tells what was chosen: the owner of the router's matrix, or the
            module around it where that is read, not called.
        experts: how many there are to choose from.
    """

    watched: str
    experts: int


@dataclass(frozen=True)
class Experts:
    """The experts of one child of a block.

    Attributes:
        count: how many; 0 if there are none.
        stacked: how many experts' matrices lie in a parameter, by its name; those in a ModuleList are not here.
        router: names of the parameters that choose.
        network: path of the router where it is more than one matrix, a small network; else "".
    """

    count: int = 0
    stacked: Mapping[str, int] = field(default_factory=dict)
    router: tuple[str, ...] = ()
    network: str = ""


def configured_counts(model: PreTrainedModel) -> frozenset[int]:
    """Return every number above 1 that the configuration gives under a key about experts, but for those per token."""
    return frozenset(_expert_numbers(model.config.get_text_config().to_dict(), _MOST_NESTED))


def _expert_numbers(values: Mapping[str, Any], depth: int) -> Iterator[int]:
    for key, value in values.items():
        if isinstance(value, Mapping) and depth:
            yield from _expert_numbers(value, depth - 1)
        elif "expert" in str(key) and "per_tok" not in str(key):
            numbers = value if isinstance(value, (list, tuple)) else [value]
            yield from (number for number in numbers if type(number) is int and number > 1)


def find_experts(
    prefix: str, module: nn.Module, counts: Collection[int], hidden_size: int | None, *, in_attention: bool
) -> Experts:
    """Find the experts inside a child of a block.

    Args:
        prefix: the child's path.
        module: the child.
        counts: what the configuration says, see :func:`configured_counts`.
        hidden_size: of the residual stream, which routers read; None if unknown.
        in_attention: whether the child mixes positions. Attention holds stacks of other things (one matrix a head), so
            there both a router and the configuration have to say that they are experts.
    """
    stacks = _stacks(prefix, module)
    lists = [len(inner) for inner in module.modules() if isinstance(inner, nn.ModuleList) and _are_alike(inner)]
    for count in dict.fromkeys([*(shape[0] for shape in stacks.values()), *sorted(lists, reverse=True)]):
        # Some routers weigh the shared experts, too, which are a stack of their own.
        shared = {name.rpartition(".")[0]: shape[0] for name, shape in stacks.items() if shape[0] != count}
        router = tuple(_router_parameters(prefix, module, count, hidden_size))
        router = router or tuple(_router_parameters(prefix, module, count + sum(shared.values()), hidden_size))
        network = "" if router or in_attention else _router_network(prefix, module, count, hidden_size)
        if network:
            inner = module.get_submodule(network.removeprefix(f"{prefix}."))
            router = tuple(name for name, _ in inner.named_parameters(prefix=network))
        known = (bool(router) and count in counts) if in_attention else (bool(router) or count in counts)
        if count > 1 and known and (router or count in {shape[0] for shape in stacks.values()}):
            return Experts(count, {name: shape[0] for name, shape in stacks.items()}, router, network)
    for count in counts:
        router = tuple(_router_parameters(prefix, module, count, hidden_size))
        if router and (rows := _stacked_in_rows(prefix, module, count, router)):
            return Experts(count, rows, router)
    return Experts()


def _stacks(prefix: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of 3-D parameters that can be stacks of matrices."""
    return {
        f"{owner_name}.{name}": tuple(parameter.shape)
        for owner_name, owner in module.named_modules(prefix=prefix)
        if not isinstance(owner, _ConvNd)
        for name, parameter in owner.named_parameters(recurse=False)
        if parameter.ndim == 3 and min(parameter.shape[1:]) > 1
    }


def _are_alike(modules: nn.ModuleList) -> bool:
    return len(modules) > 1 and len({type(inner) for inner in modules}) == 1


def _router_parameters(prefix: str, module: nn.Module, count: int, hidden_size: int | None) -> Iterator[str]:
    """Yield the router's matrix, shape (experts, features), and the vectors beside and below it."""
    inside_experts = tuple(
        f"{name}." for name, inner in module.named_modules(prefix=prefix) if isinstance(inner, nn.ModuleList)
    )
    for owner_name, owner in module.named_modules(prefix=prefix):
        own = dict(owner.named_parameters(recurse=False))
        dimensions = {parameter.ndim for parameter in own.values()}
        reads = {parameter.shape[1] for parameter in own.values() if parameter.ndim == 2}
        is_router = 2 in dimensions and 3 not in dimensions and not f"{owner_name}.".startswith(inside_experts)
        if not is_router or any(parameter.shape[0] != count for parameter in own.values() if parameter.numel() > 1):
            continue
        if hidden_size is None or reads == {hidden_size}:
            yield from (f"{owner_name}.{name}" for name in own)
            yield from (
                f"{owner_name}.{name}"
                for name, parameter in owner.named_parameters()
                if name not in own and parameter.numel() == count
            )


def _router_network(prefix: str, module: nn.Module, count: int, hidden_size: int | None) -> str:
    """Return the path of a child without experts that reads hidden states and ends in a matrix of ``count`` rows.

    Or of one more: some can also choose to do nothing.
    """
    for name, inner in module.named_children():
        shapes = [parameter.shape for parameter in inner.parameters() if parameter.ndim > 1]
        has_experts = any(len(shape) > 2 for shape in shapes) or isinstance(inner, nn.ModuleList)
        if len(shapes) > 1 and not has_experts and shapes[0][1] == hidden_size and shapes[-1][0] in {count, count + 1}:
            return f"{prefix}.{name}"
    return ""


def _stacked_in_rows(prefix: str, module: nn.Module, count: int, router: Collection[str]) -> dict[str, int]:
    """Return the 2-D parameters that hold all experts one below the other: several of one shape in one owner."""
    found: dict[str, int] = {}
    for owner_name, owner in module.named_modules(prefix=prefix):
        own = {f"{owner_name}.{name}": parameter for name, parameter in owner.named_parameters(recurse=False)}
        shapes = [parameter.shape for parameter in own.values() if parameter.ndim == 2]
        several = len(shapes) > 1 and len(set(shapes)) == 1
        known = isinstance(owner, (nn.Linear, Conv1D, nn.Embedding)) or not own.keys().isdisjoint(router)
        if several and not known and shapes[0][0] % count == 0 and shapes[0][0] > count:
            found |= {name: count for name, parameter in own.items() if parameter.ndim == 2}
    return found
