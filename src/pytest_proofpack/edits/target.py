"""A model while an edit acts on it: whatever is touched is kept first, and put back bit for bit at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from pytest_proofpack.edits.stored import StoredWeights
from pytest_proofpack.models.device import free_memory
from pytest_proofpack.models.layout import ModelLayout

WORKSPACE_SHARE = 0.2
"""Part of a device's memory that copies of originals leave free, for activations, logits and guards, if the memory plan
does not ask for more."""


@dataclass(frozen=True)
class Kept:
    """A parameter's original values: what puts them back, and what gives them to be read, on whatever device."""

    put_back: Callable[[], None]
    values: Callable[[], Tensor | None]


@dataclass(frozen=True)
class EditReport:
    """What an edit or an error injection did.

    Attributes:
        label: the edit's type or the fault's name.
        parameters: names of the parameters touched, added or removed, in the order in which that happened.
        details: facts that belong to the edit, for example ``zeros`` or ``energy_min``; JSON-able.
        original: gives the values of a parameter before the edit, for as long as the edit lasts; None for one that was
            replaced or added.
    """

    label: str
    parameters: tuple[str, ...]
    details: Mapping[str, Any]
    original: Callable[[str], Tensor | None] = field(default=lambda _name: None, compare=False)


@dataclass(frozen=True)
class Originals:
    """Where the originals of what an edit replaces are kept until they are put back.

    By a copy on the parameter's device if there is room, because copies within a device are a hundred times faster than
    those from the host. Else by the file that it was loaded from, which costs no memory; if that holds something else
    (fused or converted tensors), by a copy in host memory.

    Attributes:
        left_free: bytes that copies must leave free on each device, as the memory plan says.
        stored: the files that the model was loaded from; None for a model that has none, or not these values.
    """

    left_free: int = 0
    stored: StoredWeights | None = None

    def read(self, name: str) -> Tensor | None:
        """Return a stored tensor, in host memory; None if there is none of that name."""
        return None if self.stored is None else self.stored.read(name)

    def room(self, device: torch.device) -> float:
        """Return the bytes that copies may take on a device."""
        return room_for_copies(device, self.left_free)

    def keep(self, name: str, parameter: Tensor, *, beside: bool) -> Kept:
        """Keep a parameter's values.

        Args:
            name: the parameter's name.
            parameter: the parameter, detached.
            beside: whether its device has room for a copy.
        """
        if not beside and self.stored is not None and self.stored.holds(name, parameter):
            return Kept(partial(self.stored.put_back, name, parameter), partial(self.stored.read, name))
        copy = parameter.to(parameter.device if beside else torch.device("cpu"), copy=True)
        return Kept(partial(_put_back, parameter, copy), lambda: copy)


@dataclass
class Target:
    """A model under edit.

    Attributes:
        model: the model, changed in place.
        layout: its structure before the edit.
        undo: what has to happen, in reverse order, for the model to be as before.
        originals: where what is touched is kept.
        touched: names of the parameters touched so far.
        kept: the original values of those whose values change.
    """

    model: PreTrainedModel
    layout: ModelLayout
    undo: contextlib.ExitStack
    originals: Originals = field(default_factory=Originals)
    touched: dict[str, None] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    _room: dict[torch.device, float] = field(default_factory=dict)

    def keep(self, name: str) -> None:
        """Make sure of a parameter's values before they change; a second call does nothing."""
        if name in self.touched:
            return
        self.touched[name] = None
        parameter = self.model.get_parameter(name).detach()
        self.kept[name] = self.originals.keep(name, parameter, beside=self._takes_room(parameter))
        self.undo.callback(self.kept[name].put_back)

    def original(self, name: str) -> Tensor | None:
        """Return a parameter's values from before the edit; None if they were not kept."""
        return self.kept[name].values() if name in self.kept else None

    def _takes_room(self, parameter: Tensor) -> bool:
        """Tell whether a copy of a parameter fits its device, and count it as made.

        Each device is asked once: for hundreds of parameters the answers would take longer than the copies.
        """
        device = parameter.device
        if device not in self._room:
            self._room[device] = self.originals.room(device)
        if parameter.nbytes >= self._room[device]:
            return False
        self._room[device] -= parameter.nbytes
        return True

    def set_aside(self, parameter: Tensor) -> None:
        """Move a parameter's values to the host until the end, if its device has no room for another one like it.

        For parameters that are about to be replaced: nothing computes with them meanwhile.
        """
        if parameter.nbytes >= self.originals.room(parameter.device):
            self.undo.callback(_move, parameter, parameter.device)
            _move(parameter, torch.device("cpu"))

    def replace(self, owner: object, attribute: str, value: object) -> None:
        """Set an attribute of a module or hook; a parameter's or submodule's old object returns at the end."""
        self.undo.callback(setattr, owner, attribute, getattr(owner, attribute))
        setattr(owner, attribute, value)

    def answer(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let a module compute something else until the end."""
        own = vars(module).get("forward")  # where somebody else, accelerate for one, has wrapped it
        self.undo.callback(setattr, module, "forward", own) if own else self.undo.callback(delattr, module, "forward")
        module.forward = forward

    def configure(self, config: PretrainedConfig, **values: object) -> None:
        """Set values of a configuration."""
        before = dict(vars(config))
        self.undo.callback(_reset_attributes, config, before)
        for key, value in values.items():
            setattr(config, key, value)


@contextlib.contextmanager
def edit_target(model: PreTrainedModel, layout: ModelLayout, originals: Originals | None = None) -> Iterator[Target]:
    """Yield a target whose changes are undone when the body ends, also by an exception.

    Args:
        model: changed in place.
        layout: its structure.
        originals: where to keep what is touched; by default on its device, or in host memory.

    Raises:
        RestoreError: at the end, a file that was needed has changed meanwhile. The model is not as before.
    """
    with contextlib.ExitStack() as undo:
        yield Target(model, layout, undo, originals or Originals())


def room_for_copies(device: torch.device, left_free: int) -> float:
    """Return the bytes that copies may take on a device so that ``left_free`` bytes and the usual share stay free."""
    free, total = free_memory(device)
    if device.type == "cuda":
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # held, but by nobody's tensor
    return free - max(left_free, WORKSPACE_SHARE * total)


def _put_back(parameter: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)


def _move(parameter: Tensor, device: torch.device) -> None:
    parameter.data = parameter.data.to(device)


def _reset_attributes(config: PretrainedConfig, before: dict[str, Any]) -> None:
    vars(config).clear()
    vars(config).update(before)
