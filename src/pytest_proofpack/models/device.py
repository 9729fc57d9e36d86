"""Which device to compute on, how reproducibly, and how much of it is free."""

from __future__ import annotations

import re

import psutil
import torch

from pytest_proofpack.common.words import memory_size
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.determinism import reached_determinism

MEMORY_ADVICE = "Use a larger device, or fewer workers (-n), or end what else is using it."
_ASKED = re.compile(r"[Tt]r(?:ied|ying) to allocate ([0-9.]+) (bytes|[KMGT]iB)")
_HOST_ALLOCATOR = "DefaultCPUAllocator"


def choose_device(requested: str) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``auto`` never takes ``mps``.

    Raises:
        ConfigurationError: ``cuda`` or ``mps`` was asked for and there is none.
    """
    if requested.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(
            "--proofpack-device=cuda: torch sees no CUDA device. Use --proofpack-device=cpu, or check the driver and "
            "CUDA_VISIBLE_DEVICES."
        )
    if requested == "mps" and not torch.backends.mps.is_available():
        raise ConfigurationError("--proofpack-device=mps: torch finds no Apple GPU. Use --proofpack-device=cpu.")
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(requested)


def configure_determinism(mode: str, device: torch.device) -> str:
    """Set torch up for ``throughput`` or ``strict`` and return what is reached.

    On the CPU every process computes with one thread: the bits of a matrix product depend on the number of threads,
    and certificates must not depend on how many workers made them. Parallelism comes from ``-n``.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
    strict = mode == "strict"
    torch.use_deterministic_algorithms(strict)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = strict
        torch.backends.cuda.matmul.allow_tf32 = not strict
        torch.backends.cudnn.allow_tf32 = not strict
    return reached_determinism(mode, device.type)


def free_memory(device: torch.device) -> tuple[int, int]:
    """Return the bytes of a device that nobody has taken, and all; the host's memory for whatever is no CUDA device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    host = psutil.virtual_memory()
    return host.available, host.total


def memory_shortage(error: BaseException) -> str | None:
    """Return in one line what an error says that memory was needed for, and what there is; None if it is about else.

    Memory runs out as :class:`torch.OutOfMemoryError` on an accelerator, as a RuntimeError of torch's allocator on the
    host, and as Python's own MemoryError.
    """
    text = " ".join(str(error).split())
    asked = _ASKED.search(text)
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not (asked and _HOST_ALLOCATOR in text):
        return None
    on_device = isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available()
    device = torch.device("cuda" if on_device else "cpu")
    needed = "" if asked is None else f" {_size(asked)} more were asked for, and"
    free, total = map(memory_size, free_memory(device))
    return (
        f"memory of the {'device' if on_device else 'host'} ran out:{needed} {free} of {total} are free now "
        "(a limit on the process may leave it less)"
    )


def _size(asked: re.Match[str]) -> str:
    amount, unit = float(asked[1]), asked[2]
    return memory_size(amount) if unit == "bytes" else f"{amount:g} {unit}"


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that the time goes to whoever gave it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
