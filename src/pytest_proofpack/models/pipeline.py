"""Forward passes of a model that lies on several devices, with all of them at work at once.

Layers follow each other, so one batch keeps one device busy at a time: others have work only if they have other
batches. Launching the next batch early is not enough, because a copy between devices makes the source's stream wait
for all that the destination's stream was given: batches on one stream per device take turns, and two devices are as
slow as one. So batches take turns on lanes instead. A lane is one stream on every device, current on all of them while
a batch is launched: its copies wait for its own stream only, and while one lane's batch is on the second device, the
next lane's is on the first. Hooks of accelerate and of observers run as they are, on the lane of their batch.

A device that two lanes have work for does both by halves, and both would leave it late, with nothing for the next
device to do meanwhile. So on every device the layers of a batch wait for those of the batch before.

Hidden states go from device to device once, but masks and rotary tables would be copied in every layer, from the first
device, whose stream then waits for a layer of the last one: a batch would be done with the first device only when it is
done with all. So what all layers are given is brought to a device once per batch.

One thread launches everything, batch after batch, so results come in order and hold the same bits. Memory is safe
without further care: what a batch allocates belongs to the streams of its lane, and both streams of a copy are. Only
what batches share has to be made where all lanes see it, see :func:`on_common_stream`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

STREAMED = ("cuda",)
"""Types of devices whose work is launched on streams."""

SPARE_LANES = 1
"""Lanes beside one per device. transformers' masks wait, at the start of a batch, for what its lane was given before:
with a lane to spare, that is over, and the next batch is launched while every device still has work."""


@dataclass
class _Batch:
    """What is launched on a lane.

    Attributes:
        lane: its number; None before the first batch.
        before: streams of the batch before, by device, for which its layers there have yet to wait.
        brought: what layers are given beside hidden states, and copies of that, by its id and their device.
    """

    lane: int | None = None
    before: dict[torch.device, torch.cuda.Stream] = field(default_factory=dict)
    brought: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def bring(self, value: Any, place: torch.device) -> Any:
        """Return what layers are given on a device, copied there once."""
        if type(value) is tuple:
            return tuple(self.bring(one, place) for one in value)
        if not isinstance(value, Tensor) or value.device == place:
            return value
        key = id(value), place
        if key not in self.brought:
            self.brought[key] = value, value.to(place)  # the first keeps its id from being another's
        return self.brought[key][1]


class Pipeline:
    """Lanes over some devices; with a single one, everything is as without a pipeline.

    Args:
        devices: those that work is for and that have streams, the one that it begins on first.
        lanes: how many pieces of work are under way together, each with memory of its own.
    """

    def __init__(self, devices: Sequence[torch.device], lanes: int) -> None:
        self._devices = tuple(devices) if lanes > 1 else ()
        self._lanes = lanes
        self._batch = _Batch()
        self._turns = itertools.cycle(range(self._lanes))

    @contextlib.contextmanager
    def lane(self) -> Iterator[None]:
        """Launch a batch on the next lane, after everything that has been launched outside of lanes. Per thread."""
        number, before = next(self._turns), self._batch.lane
        self._batch = _Batch(number)
        if before is not None:
            self._batch.before |= {device: _stream(device, before) for device in self._devices}
        with contextlib.ExitStack() as current:
            for device in reversed(self._devices):  # the last one entered becomes the current device
                stream = _stream(device, number)
                stream.wait_stream(torch.cuda.default_stream(device))
                current.enter_context(torch.cuda.stream(stream))
            yield
        self._batch.brought.clear()

    def before_layer(
        self, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Have a layer begin when its device is done with the batch before; return what it is given, brought there.

        A forward pre-hook. Hidden states, which come first, are left to accelerate.
        """
        place = next((own.device for own in layer.parameters()), None)
        if place is None:
            return None
        if (before := self._batch.before.pop(place, None)) is not None:
            torch.cuda.current_stream(place).wait_stream(before)
        rest = tuple(self._batch.bring(value, place) for value in given[1:])
        return (*given[:1], *rest), {name: self._batch.bring(value, place) for name, value in named.items()}

    def join(self) -> None:
        """Let what is launched from now on, outside of lanes, come after all that lanes were given. Nothing waits."""
        for device in self._devices:
            for number in range(self._lanes):
                torch.cuda.default_stream(device).wait_stream(_stream(device, number))


@contextlib.contextmanager
def pipelined(model: nn.Module, lanes: int | None = None) -> Iterator[Pipeline]:
    """Yield the pipeline of a model; what lanes were given comes before whatever is launched after the body.

    That holds after an exception too: weights that somebody puts back are still read by batches in flight.

    Args:
        model: of one device, it has a single lane.
        lanes: how many batches are in flight, each with activations of its own; None for one per device and
            :data:`SPARE_LANES`.
    """
    devices = dict.fromkeys(own.device for own in model.parameters() if own.device.type in STREAMED)
    several = len(devices) > 1
    pipeline = Pipeline(list(devices), (lanes or len(devices) + SPARE_LANES) if several else 1)
    lists = [own for own in model.modules() if isinstance(own, nn.ModuleList)] if several else []
    hooks = [
        layer.register_forward_pre_hook(pipeline.before_layer, with_kwargs=True) for layers in lists for layer in layers
    ]
    try:
        yield pipeline
    finally:
        for hook in hooks:
            hook.remove()
        pipeline.join()


@contextlib.contextmanager
def on_common_stream(device: torch.device) -> Iterator[None]:
    """Make, in the body, what several batches use on a device: the lane that is current waits for it, later ones will.

    Without it, another lane could read or fill memory that the first one has not prepared yet.
    """
    if device.type not in STREAMED:
        yield
        return
    common, lane = torch.cuda.default_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(common):
        yield
    if lane != common:
        lane.wait_stream(common)


@cache
def _stream(device: torch.device, lane: int) -> torch.cuda.Stream:  # noqa: ARG001 - one per lane
    """Return a lane's stream, always the same: memory that one pass has freed serves the next one's."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
