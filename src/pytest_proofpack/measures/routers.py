"""Where the routers of a mixture of experts send tokens, counted inside forward hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_proofpack.guards.activations import RouterUsage
from pytest_proofpack.models.layout import ModelLayout
from pytest_proofpack.models.suited import stated

_TOP_K_KEYS = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk")
"""What transformers' configurations call the number of experts per token."""


class RouterObserver:
    """A forward hook on a router that counts which experts it chooses, on the router's device.

    A router that returns indices tells top-k itself; one that returns logits only is taken at its configuration's word.
    """

    def __init__(self, experts: int, top_k: int | None, tokens: int) -> None:
        self.experts = experts
        self.top_k = top_k
        self._tokens = tokens
        self.usage: Tensor | None = None

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Count the experts that one forward pass of the router chooses."""
        values = output if isinstance(output, (tuple, list)) else (output,)
        tensors = [value for value in values if isinstance(value, Tensor)]
        chosen = next((value for value in tensors if not value.is_floating_point()), None)
        logits = next((value for value in tensors if value.shape[-1] == self.experts), None)
        if chosen is None and logits is not None:
            chosen = logits.topk(min(self.top_k or 1, self.experts), dim=-1).indices
        elif chosen is not None:
            self.top_k = int(chosen.shape[-1])
        if chosen is None:
            return
        chosen = chosen.reshape(-1, chosen.shape[-1])
        if len(chosen) < self._tokens:
            return  # a trial of a few tokens
        # A comparison with every expert, not bincount, which waits for the device.
        experts = torch.arange(self.experts, device=chosen.device)
        self.usage = (chosen[: self._tokens].reshape(-1, 1) == experts).sum(dim=0)


def router_observers(model: PreTrainedModel, layout: ModelLayout, tokens: int) -> dict[str, RouterObserver]:
    """Return a hook per router, by the path of the module that owns its matrix.

    Args:
        model: the model to be watched.
        layout: the baseline's structure.
        tokens: how many tokens count, the first ones of a batch; a batch of fewer is not looked at.
    """
    top_k = _configured_top_k(model)
    watched = {own.watched: RouterObserver(own.experts, top_k, tokens) for own in layout.routers.values()}
    return {name: watched[router.watched] for name, router in layout.routers.items()}


def router_hooks(layout: ModelLayout, observers: Mapping[str, RouterObserver]) -> dict[str, RouterObserver]:
    """Return the observers by the path of the module that each is to be hooked on."""
    return {layout.routers[name].watched: observer for name, observer in observers.items()}


def _configured_top_k(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config()
    values = (stated(config, key) for key in _TOP_K_KEYS)
    return next((value for value in values if isinstance(value, int)), None)


def router_facts(model: PreTrainedModel, observers: Mapping[str, RouterObserver]) -> dict[str, RouterUsage]:
    """Return the facts about the routers that were called; their counts are fetched from the device together."""
    called = {name: usage for name, observer in observers.items() if (usage := observer.usage) is not None}
    if not called:
        return {}
    device = next(iter(called.values())).device
    counts = torch.cat([usage.to(device) for usage in called.values()]).tolist()
    facts, start = {}, 0
    for name, usage in called.items():
        matrix = next((own for own in model.get_submodule(name).parameters(recurse=False) if own.ndim == 2), None)
        facts[name] = RouterUsage(
            experts=observers[name].experts,
            top_k=observers[name].top_k,
            shape=() if matrix is None else tuple(matrix.shape),
            usage=tuple(counts[start : start + len(usage)]),
        )
        start += len(usage)
    return facts
