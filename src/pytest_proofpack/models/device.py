"""Which device to compute on, how reproducibly, and how much of it is free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import torch
from torch.nn import functional

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.determinism import reached_determinism

_HEADS, _TOKENS, _WIDTH = 8, 128, 128
"""Of what GPUs are warmed up with."""


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


def gpus_of(device: torch.device, spread: Mapping[int, int]) -> list[torch.device]:
    """Return the GPUs that a model is loaded on, each with its number; others may be somebody else's.

    Args:
        device: where it goes.
        spread: what each GPU may hold of a model that takes several, by number; else empty.
    """
    if spread:
        return [torch.device("cuda", number) for number in spread]
    return [torch.device("cuda", _number(device))] if device.type == "cuda" else []


def limit_memory(devices: Iterable[torch.device], gibibytes: float | None) -> None:
    """Have torch take no more of each GPU than that, beside what the driver takes for the process.

    Args:
        devices: those that are computed on; of others than CUDA's nothing is limited.
        gibibytes: the limit, ``--proofpack-gpu-memory``; None for none.
    """
    if gibibytes is not None:
        for device in devices:
            if device.type == "cuda":
                total = torch.cuda.mem_get_info(device)[1]
                torch.cuda.set_per_process_memory_fraction(min(1.0, gibibytes * 2**30 / total), _number(device))


def free_memory(device: torch.device) -> tuple[int, int]:
    """Return the bytes of a device that may still be taken, and all that may be; see :func:`limit_memory`.

    For whatever is no CUDA device, of the host's memory.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(_number(device)) * total)
        return max(0, min(free, allowed - torch.cuda.memory_reserved(device))), allowed
    host = psutil.virtual_memory()
    return host.available, host.total


@contextmanager
def warming_up(gpus: Iterable[torch.device]) -> Iterator[None]:
    """Get GPUs ready for what comes, while the body does something else.

    The first product, attention and decomposition of a process load libraries and kernels, about a second's worth. What
    goes wrong with that is left to whoever computes.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="proofpack-warm-up") as pool:
        for gpu in gpus:
            pool.submit(_warm_up, gpu)
        yield


def _warm_up(device: torch.device) -> None:
    with torch.inference_mode():
        vectors = torch.ones(1, _HEADS, _TOKENS, _WIDTH, dtype=torch.bfloat16, device=device)
        functional.scaled_dot_product_attention(vectors, vectors, vectors, is_causal=True)
        functional.log_softmax((vectors[0] @ vectors[0].mT).float(), dim=-1).topk(2)
        basis = torch.linalg.qr(vectors[0].float().mT).Q
        torch.linalg.eigh((basis.mT @ basis).double())
        torch.cuda.synchronize(device)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that the time goes to whoever gave it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _number(device: torch.device) -> int:
    """Return a GPU's number, which a device need not name: ``cuda`` is the one that is used by default."""
    return torch.cuda.current_device() if device.index is None else device.index
