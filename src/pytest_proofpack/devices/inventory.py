"""Which devices there are, found before torch is loaded, so that every worker can be given its own.

NVIDIA GPUs are listed by their driver (NVML). Where that says nothing - AMD GPUs, a Mac, a board without NVML - torch
is asked, which loads it into this process. Nothing here reserves anything on a device.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from pytest_proofpack.errors import ConfigurationError

Environment = Mapping[str, str]

CPU = "cpu"
CUDA = "cuda"
MPS = "mps"
NVIDIA_VARIABLE = "CUDA_VISIBLE_DEVICES"
AMD_VARIABLE = "HIP_VISIBLE_DEVICES"
_ORDER_VARIABLE = "CUDA_DEVICE_ORDER"
_BY_BUS = "PCI_BUS_ID"
_MIG = "MIG-"


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        index: its position among those that the caller lets us see.
        uuid: tells it from all others of the host; leases are by it.
        name: what its maker calls it.
        total_bytes: its memory, as far as we may use it.
        kind: torch's name of its kind: ``cpu``, ``cuda`` (NVIDIA and AMD) or ``mps``.
        selector: what names it in the variable that decides what is visible; empty if nothing does.
        variable: that variable.
    """

    index: int
    uuid: str
    name: str
    total_bytes: int
    kind: str
    selector: str = ""
    variable: str = NVIDIA_VARIABLE

    @property
    def is_part(self) -> bool:
        """Whether it is a part of a GPU (MIG), of which CUDA shows a process only one."""
        return self.selector.startswith(_MIG)


class Probe:
    """What the machine is asked. Tests answer in its place."""

    def torch_build(self) -> str:
        """Return what the installed torch is built for, ``cuda``, ``hip`` or ``cpu``, without loading it."""
        spec = find_spec("torch")
        if spec is None or spec.origin is None:
            return CPU
        version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
        return "hip" if version.get("hip") else CUDA if version.get("cuda") else CPU

    def nvml(self) -> Any:
        """Return the module that speaks to NVIDIA's driver."""
        import pynvml

        return pynvml

    def torch_devices(self) -> list[Device]:
        """Ask torch for its GPUs, in its own order."""
        import torch

        found = []
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            facts = torch.cuda.get_device_properties(index)
            uuid = str(getattr(facts, "uuid", f"{facts.name}-{index}"))
            found.append(Device(index, uuid, facts.name, facts.total_memory, CUDA))
        return found

    def mps(self) -> Device | None:
        """Ask torch for the GPU of a Mac, which shares the host's memory."""
        if sys.platform != "darwin":
            return None
        import torch

        memory = psutil.virtual_memory().total
        return Device(0, "MPS", "Apple GPU", memory, MPS) if torch.backends.mps.is_available() else None


def visible_devices(
    requested: str, environment: Environment, *, memory: float | None = None, probe: Probe | None = None
) -> tuple[Device, ...]:
    """Return the devices that a run may use, in the order in which the caller named them.

    ``auto`` takes the GPUs, or the CPU where there is none. A Mac's GPU has to be asked for: it knows no float64, which
    some measurements use.

    Args:
        requested: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        environment: its CUDA_VISIBLE_DEVICES (or HIP_VISIBLE_DEVICES) and CUDA_DEVICE_ORDER are respected.
        memory: bytes of each GPU that may be used at most; None for all.
        probe: asks the machine.

    Raises:
        ConfigurationError: what was asked for is not there, or the environment does not tell which GPU it means.
    """
    probe = probe or Probe()
    found: Sequence[Device] = ()
    if requested in {"auto", CUDA}:
        found = _gpus(environment, probe)
        if not found and requested == CUDA:
            shown = environment.get(NVIDIA_VARIABLE)
            hint = f" {NVIDIA_VARIABLE} is {shown!r}." if shown is not None else ""
            raise ConfigurationError(
                f"--proofpack-device=cuda: no GPU can be used.{hint} Check the driver and that torch is built for it, "
                "or use --proofpack-device=cpu."
            )
    elif requested == MPS:
        device = probe.mps()
        if device is None:
            raise ConfigurationError("--proofpack-device=mps: torch finds no Apple GPU. Use --proofpack-device=cpu.")
        found = [device]
    if not found:
        found = [Device(0, "", "CPU", psutil.virtual_memory().total, CPU, variable="")]
    limit = float("inf") if memory is None else memory
    return tuple(
        own if own.kind == CPU else replace(own, total_bytes=int(min(own.total_bytes, limit))) for own in found
    )


def slot_count(devices: Sequence[Device]) -> int:
    """Return how many workers can compute side by side: one per GPU, or one per core that this process may use.

    On a CPU every worker computes with one thread, so more workers than cores would only get in each other's way.
    """
    return available_cores() if is_cpu(devices) else len(devices)


def available_cores() -> int:
    """Return the number of cores (as the system counts them) that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_cpu(devices: Sequence[Device]) -> bool:
    """Tell whether a run computes on the CPU."""
    return devices[0].kind == CPU


def visibility(devices: Iterable[Device]) -> dict[str, str]:
    """Return the variables that show a process these devices, in this order, and no others.

    CUDA shows a process only one part of a GPU, so of parts only the first is named.
    """
    named = [device for device in devices if device.selector]
    if not named:
        return {}
    shown = named[:1] if named[0].is_part else named
    return {named[0].variable: ",".join(device.selector for device in shown)}


def to_text(devices: Iterable[Device]) -> str:
    """Return devices as one JSON text, for a worker."""
    return json.dumps([asdict(device) for device in devices])


def from_text(text: str) -> tuple[Device, ...]:
    """Rebuild devices from :func:`to_text`."""
    return tuple(Device(**values) for values in json.loads(text))


def _gpus(environment: Environment, probe: Probe) -> list[Device]:
    """Return the GPUs that the installed torch can use."""
    build = probe.torch_build()
    if build == CUDA:
        nvml = probe.nvml()
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:  # no driver, or a board whose driver has no NVML
            return _from_torch(probe, environment, NVIDIA_VARIABLE)
        try:
            return _select(_nvidia_gpus(nvml), environment)
        finally:
            nvml.nvmlShutdown()
    return _from_torch(probe, environment, AMD_VARIABLE) if build == "hip" else []


def _from_torch(probe: Probe, environment: Environment, variable: str) -> list[Device]:
    """Return what torch finds. It has obeyed the variable, so its n-th device is the n-th that is named there."""
    given = environment.get(variable)
    names = [name.strip() for name in given.split(",")] if given is not None else None
    return [
        replace(device, selector=names[device.index] if names is not None else str(device.index), variable=variable)
        for device in probe.torch_devices()
        if names is None or device.index < len(names)
    ]


@dataclass(frozen=True)
class _Gpu:
    """An NVIDIA GPU in the driver's order, which is that of the bus, and the parts that it is divided into."""

    whole: Device
    parts: tuple[Device, ...]

    @property
    def usable(self) -> tuple[Device, ...]:
        """The parts, or the GPU itself if it is not divided."""
        return self.parts or (self.whole,)


def _nvidia_gpus(nvml: Any) -> list[_Gpu | None]:
    """Ask the driver; None stands for a GPU that cannot be used, so that the others keep their numbers."""
    found: list[_Gpu | None] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            found.append(_Gpu(_nvidia_device(nvml, handle, index), tuple(_parts(nvml, handle, index))))
        except nvml.NVMLError:  # fallen off the bus, or not ours
            found.append(None)
    return found


def _nvidia_device(nvml: Any, handle: Any, index: int) -> Device:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    return Device(index, uuid, nvml.nvmlDeviceGetName(handle), _usable_bytes(nvml, handle), CUDA, uuid)


def _usable_bytes(nvml: Any, handle: Any) -> int:
    """Return a GPU's memory without what its driver keeps for itself, where the driver tells that apart."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return int(memory.total - memory.reserved)


def _parts(nvml: Any, handle: Any, index: int) -> Iterable[Device]:
    """Yield the parts that a GPU is divided into (MIG)."""
    try:
        divided, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return
    if divided != nvml.NVML_DEVICE_MIG_ENABLE:
        return
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError:  # an empty place
            continue
        yield _nvidia_device(nvml, part, index)


def _select(gpus: Sequence[_Gpu | None], environment: Environment) -> list[Device]:
    """Return what CUDA_VISIBLE_DEVICES leaves, numbered from 0; CUDA's rules.

    Entries are numbers, UUIDs or the beginnings of UUIDs. What comes after one that names nothing (-1, for one) is not
    visible, and a device named twice means that none is.
    """
    given = environment.get(NVIDIA_VARIABLE)
    if given is None:
        chosen = [device for gpu in gpus if gpu is not None for device in gpu.usable]
    else:
        chosen = []
        for name in (part.strip() for part in given.split(",")):
            device = _named(gpus, name, environment)
            if device is None:
                break
            if device in chosen:
                return []
            chosen.append(device)
    return [replace(device, index=index) for index, device in enumerate(chosen)]


def _named(gpus: Sequence[_Gpu | None], name: str, environment: Environment) -> Device | None:
    """Return the device that an entry names, or None. The number of a divided GPU means its first part."""
    if name.isdecimal():
        gpu = gpus[int(name)] if int(name) < len(gpus) else None
        _require_order(gpus, environment)
        return None if gpu is None else gpu.usable[0]
    if not name.startswith(("GPU-", _MIG)):
        return None
    all_devices = [device for gpu in gpus if gpu is not None for device in (gpu.whole, *gpu.parts)]
    matches = [device for device in all_devices if device.uuid.startswith(name)]
    if len(matches) != 1:
        return None
    divided = next((gpu.parts[0] for gpu in gpus if gpu is not None and gpu.parts and gpu.whole == matches[0]), None)
    return divided or matches[0]


def _require_order(gpus: Sequence[_Gpu | None], environment: Environment) -> None:
    """Refuse numbers whose meaning cannot be told: CUDA counts the fastest first, the driver along the bus."""
    names = {gpu.whole.name for gpu in gpus if gpu is not None}
    if len(names) > 1 and environment.get(_ORDER_VARIABLE) != _BY_BUS:
        raise ConfigurationError(
            f"{NVIDIA_VARIABLE} names GPUs by number, but this host has different ones ({', '.join(sorted(names))}), "
            f"and CUDA then numbers them by speed. Set {_ORDER_VARIABLE}={_BY_BUS}, or give UUIDs (nvidia-smi -L)."
        )
