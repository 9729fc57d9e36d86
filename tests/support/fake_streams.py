"""Streams of fake devices, which do nothing but know what comes before what, and find operations that come too early.

A stream's clock holds, by stream, how many of its operations are certainly over when the next operation here begins. It
moves on by waiting for another stream, by copies between devices (of which both sides wait for each other, as CUDA's
do), and by what the host has waited for before it launched the operation.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from torch import Tensor

from tests.support.fake_devices import PlacedTensor

Clock = dict[int, int]


class RaceError(RuntimeError):
    """An operation reads what may not have been written yet, or writes what may still be read."""


class FakeStream:
    """One stream of one device."""

    def __init__(self, number: int, device: torch.device) -> None:
        self.number, self.device = number, device
        self.clock: Clock = defaultdict(int)

    def wait_stream(self, other: FakeStream) -> None:
        merge(self.clock, other.clock)


class FakeStreams:
    """What stands for ``torch.cuda``'s functions, and watches operations; see :data:`fake_devices.WATCHERS`.

    Attributes:
        launched: every operation: its name, its stream, and a copy of the stream's clock.
    """

    def __init__(self) -> None:
        self.launched: list[tuple[str, FakeStream, Clock]] = []
        self._streams: list[FakeStream] = []
        self._of_thread = threading.local()
        self._lock = threading.RLock()
        self._default: dict[torch.device, FakeStream] = {}
        self._host: Clock = defaultdict(int)
        self._histories: dict[int, _History] = {}

    def Stream(self, device: torch.device) -> FakeStream:  # noqa: N802 - torch's name
        self._streams.append(FakeStream(len(self._streams), device))
        return self._streams[-1]

    def default_stream(self, device: torch.device) -> FakeStream:
        if device not in self._default:
            self._default[device] = self.Stream(device)
        return self._default[device]

    @property
    def _current(self) -> dict[torch.device, FakeStream]:
        current: dict[torch.device, FakeStream] = self._of_thread.__dict__.setdefault("current", {})
        return current

    def current_stream(self, device: torch.device) -> FakeStream:
        return self._current.get(device) or self.default_stream(device)

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before = self.current_stream(stream.device)
        self._current[stream.device] = stream
        try:
            yield
        finally:
            self._current[stream.device] = before

    @contextlib.contextmanager
    def nothing(self, _device: torch.device) -> Iterator[None]:
        """Stand for a context that should order something, and doesn't."""
        yield

    def __call__(self, func: Any, place: torch.device, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Launch an operation.

        Args:
            func: the operation.
            place: the device of its result.
            given: the tensors that go in, with those of the host.
            made: those that come out.
        """
        with self._lock:
            self._launch(func, place, given, made)

    def _launch(self, func: Any, place: torch.device, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        ours = [tensor for tensor in given if tensor.device.type == place.type or isinstance(tensor, PlacedTensor)]
        devices = list(dict.fromkeys(tensor.device for tensor in ours)) or [place]
        if devices == [torch.device("cpu")]:
            return
        streams = [self.current_stream(device) for device in devices if device.type != "cpu"]
        target = self.current_stream(place) if place.type != "cpu" else streams[0]
        stream = next((own for own in reversed(streams) if own is not target), target)  # a copy's source
        stream.wait_stream(target)
        merge(stream.clock, self._host)
        stream.clock[stream.number] += 1
        self.launched.append((str(func), stream, dict(stream.clock)))
        self._check(func, stream, given, made)
        target.wait_stream(stream)
        if place.type == "cpu" or any(tensor.device.type == "cpu" and tensor.ndim for tensor in given):
            merge(self._host, stream.clock)  # copies from and to pageable memory are waited for
        if func.overloadpacket is torch.ops.aten._local_scalar_dense:
            merge(self._host, stream.clock)

    def _check(self, func: Any, stream: FakeStream, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        ours = [tensor.on_host for tensor in given if isinstance(tensor, PlacedTensor)]
        results = [tensor.on_host for tensor in made if isinstance(tensor, PlacedTensor)]
        known, changes = {storage(tensor) for tensor in ours}, func._schema.is_mutable
        fresh = [tensor for tensor in results if storage(tensor) not in known]
        for tensor in fresh:
            self._histories[storage(tensor)] = _History(tensor.untyped_storage().nbytes())
        if changes or fresh or not results:  # else it is a view, which reads nothing
            for tensor in ours:
                self._history(tensor).read(tensor, stream, func)
        for tensor in [*fresh, *(ours[:1] if changes else ())]:
            self._history(tensor).write(tensor, stream, func)

    def _history(self, tensor: Tensor) -> _History:
        return self._histories.setdefault(storage(tensor), _History(tensor.untyped_storage().nbytes()))


class _History:
    """Who wrote and read the elements of one piece of memory last: stream and its operation's number, by address."""

    def __init__(self, size: int) -> None:
        self._writer, self._written = np.zeros((2, max(1, size)), dtype=np.int64)
        self._read: dict[int, NDArray[np.int64]] = {}

    def read(self, tensor: Tensor, stream: FakeStream, func: Any) -> None:
        writer, written = self._elements(self._writer, tensor), self._elements(self._written, tensor)
        for number in np.unique(writer).tolist():
            if (written[writer == number] > stream.clock[number]).any():
                raise RaceError(f"{func} on stream {stream.number}: stream {number} may not have written that yet")
        mine = self._read.setdefault(stream.number, np.zeros_like(self._written))
        self._elements(mine, tensor)[...] = stream.clock[stream.number]

    def write(self, tensor: Tensor, stream: FakeStream, func: Any) -> None:
        for number, read in self._read.items():
            if (self._elements(read, tensor) > stream.clock[number]).any():
                raise RaceError(f"{func} on stream {stream.number}: stream {number} may still read what it changes")
        self._elements(self._writer, tensor)[...] = stream.number
        self._elements(self._written, tensor)[...] = stream.clock[stream.number]

    def _elements(self, facts: NDArray[np.int64], tensor: Tensor) -> NDArray[np.int64]:
        """Return the facts about a tensor's elements, each at its first byte."""
        start = facts[tensor.storage_offset() * tensor.itemsize :]
        return as_strided(
            start, tensor.shape, [stride * tensor.itemsize * facts.itemsize for stride in tensor.stride()]
        )


def storage(tensor: Tensor) -> int:
    """Return what tensors share that share memory."""
    return int(tensor.untyped_storage()._cdata)


def merge(clock: Clock, other: Clock) -> None:
    for number, count in other.items():
        clock[number] = max(clock.get(number, 0), count)
