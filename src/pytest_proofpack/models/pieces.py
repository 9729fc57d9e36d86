"""Bytes of files on their way to a device and back: in pieces, through host memory that is used over and over.

Weights that go to a GPU need no host memory for themselves. Fresh memory is what takes time there (a virtual machine
may give 1 GB/s of it), and a model may be larger than what there is. So several threads read a piece each into a
buffer of their own, and do with it what they are told before they read the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from pytest_proofpack.common.files import reading_threads
from pytest_proofpack.models.stored_bytes import PIECE, bytes_of, fill

_Made = TypeVar("_Made")


def read_pieces(
    descriptor: int, start: int, end: int, use: Callable[[int, Tensor], _Made], device: torch.device
) -> list[_Made]:
    """Read bytes of an open file from ``start`` up to ``end``, and return what is made of each piece, in order.

    Args:
        descriptor: of the file.
        start: of the bytes.
        end: of the bytes.
        use: called in a thread of its own, several at a time, with where a piece begins, counted from ``start``, and
            the piece, shaped (bytes,): host memory that holds other bytes once it returns.
        device: where the pieces go; the memory is of the kind that is copied fastest to it.

    Raises:
        FormatError: the file ends before.
        OSError: it cannot be read.
    """

    def read(offset: int) -> _Made:
        piece = _own.buffer(device)[: min(PIECE, end - start - offset)]
        fill(piece, descriptor, start + offset)
        return use(offset, piece)

    made = [_readers().submit(read, offset) for offset in range(0, end - start, PIECE)]
    wait(made)  # all of them, before anybody closes the file
    return [future.result() for future in made]


def read_onto(descriptor: int, start: int, end: int, device: torch.device) -> Tensor:
    """Return bytes of an open file on a device, shaped (end - start,); see :func:`read_pieces`."""
    data = torch.empty(end - start, dtype=torch.uint8, device=device)
    read_pieces(descriptor, start, end, lambda offset, piece: put(piece, data[offset : offset + len(piece)]), device)
    return data


def put(piece: Tensor, place: Tensor) -> None:
    """Copy a piece to its place on a device, after what the device was given before, and wait until it is there."""
    with torch.inference_mode():  # which holds in the thread of whoever gives the place, and not in this one
        if place.device.type != "cuda":
            place.copy_(piece)
            return
        with _after_others(place.device) as stream:
            place.copy_(piece, non_blocking=True)
        stream.synchronize()


def is_same(piece: Tensor, place: Tensor) -> bool:
    """Tell whether a place on a device holds the bytes of a piece, after what the device was given before."""
    if place.device.type != "cuda":
        return torch.equal(piece, place)
    with _after_others(place.device):
        return torch.equal(piece.to(place.device, non_blocking=True), place)


@contextmanager
def _after_others(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """Have a GPU do what the body gives it on this thread's stream, after all that it was given before."""
    stream = _own.stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        yield stream


def host_pieces(data: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor, shaped (bytes,), in order; each piece is gone with the next.

    On a GPU, nothing waits for what that computes besides: the tensor must have been written before.
    """
    if data.device.type != "cuda":
        yield bytes_of(data)
        return
    buffer, stream = _own.buffer(data.device), _own.stream(data.device)
    for part in torch.split(data, PIECE):
        piece = buffer[: len(part)]
        with torch.cuda.stream(stream):
            piece.copy_(part, non_blocking=True)
        stream.synchronize()
        yield bytes_of(piece)


class _OfThread(threading.local):
    """What a thread keeps to itself: buffers of host memory, and a stream of each GPU."""

    def __init__(self) -> None:
        self._buffers: dict[bool, Tensor] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def buffer(self, device: torch.device) -> Tensor:
        pinned = device.type == "cuda"
        if pinned not in self._buffers or len(self._buffers[pinned]) != PIECE:
            self._buffers[pinned] = torch.empty(PIECE, dtype=torch.uint8, device="cpu", pin_memory=pinned)
        return self._buffers[pinned]

    def stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._streams[device]


_own = _OfThread()


@cache
def _readers() -> ThreadPoolExecutor:
    return reading_threads()
