"""The devices of a process that computes: shown to it before torch is loaded, leased while a model is on them.

Every worker is shown all devices of its host, its own first: a model that needs several takes others besides. What it
may really use at a time, leases decide, between the workers of a session as well as between sessions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_proofpack.common.environment import set_environment
from pytest_proofpack.devices.inventory import CPU, CUDA, Device, Environment, available_cores, is_cpu, visibility
from pytest_proofpack.devices.leases import Lease, Waiting, acquire
from pytest_proofpack.devices.memory_plan import MemoryPlan
from pytest_proofpack.errors import EvaluationError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
"""What numerical libraries and tokenizers read when they are loaded."""

LAUNCH_QUEUES = "CUDA_SCALE_LAUNCH_QUEUES"
"""How much may wait in a GPU's queue, as a multiple of what NVIDIA's driver allows; it reads this when it is loaded."""

_LAUNCH_QUEUES_SCALE = "4x"
"""The most there is. A queue takes about a thousand kernels. A batch of a model with eighty layers has more on each of
two GPUs, so that whoever launches it waits for the second GPU to do a part, and the first one waits for more work."""


@dataclass(frozen=True)
class Placement:
    """Where a model goes.

    Attributes:
        device: torch's name of the device, of the first one if there are several.
        max_memory: bytes of weights that each device may hold, by torch's number, for accelerate's device map; empty
            for a single device.
        batch_windows: windows per forward pass that fit.
        left_free: bytes that weights and copies of them must leave free on each device.
        lanes: batches that may be in flight together; None for the usual number.
    """

    device: str
    max_memory: Mapping[int, int]
    batch_windows: int
    left_free: int = 0
    lanes: int | None = None


@dataclass
class Holding:
    """Devices that a model may be loaded on, until they are given back."""

    placement: Placement
    lease: Lease = field(default_factory=lambda: Lease(()))

    def release(self) -> None:
        """Give the devices back; again does nothing."""
        self.lease.release()


class ProcessDevices:
    """The devices that one process sees.

    Args:
        devices: in the order in which they are visible to it, its own first.
        waiting: how to wait for those that others have.
    """

    def __init__(self, devices: Sequence[Device], waiting: Waiting) -> None:
        self.devices = tuple(devices)
        self._waiting = waiting

    def hold(self, plan: MemoryPlan, borrowed: Sequence[str] = ()) -> Holding:
        """Lease the devices that a plan asks for: this process's own first, then those lent by other workers.

        Waits until they are free. Once that was in vain, later calls only look: whatever else this process has to do
        would otherwise wait as long again, item by item. On a CPU there is nothing to lease.

        Args:
            plan: for the model to be loaded.
            borrowed: UUIDs of devices that other workers of this session lend.

        Raises:
            ConfigurationError: the directory of leases cannot be used.
            EvaluationError: they were not free in time; says who holds them.
        """
        if is_cpu(self.devices):
            return Holding(Placement(CPU, {}, plan.batch_windows))
        suitable = [device for device in self.devices if device.total_bytes >= plan.device_bytes]
        try:
            lease = acquire(suitable, plan.devices, self._waiting, preferred=(self.devices[0].uuid, *borrowed))
        except EvaluationError:
            self._waiting = replace(self._waiting, timeout=0.0)
            raise
        numbers = [self.devices.index(device) for device in lease.devices]
        first = f"{CUDA}:{numbers[0]}" if lease.devices[0].kind == CUDA else lease.devices[0].kind
        shares = dict.fromkeys(numbers, plan.weights_per_device) if plan.devices > 1 else {}
        return Holding(Placement(first, shares, plan.batch_windows, plan.left_free, plan.lanes), lease)


def own_first(devices: Sequence[Device], number: int) -> tuple[Device, ...]:
    """Return the devices as worker ``number``, counted from 0, should see them: its own, then the others in turn.

    Of parts of GPUs (MIG) it sees its own only. The worker has none if there are fewer devices than that.
    """
    if number >= len(devices):
        return ()
    if devices[number].is_part:
        return (devices[number],)
    return (*devices[number:], *devices[:number])


def worker_environment(devices: Sequence[Device], workers: int, environment: Environment) -> dict[str, str]:
    """Return the variables that a worker of this host starts with: its devices, and its share of the cores.

    Args:
        devices: as :func:`own_first` returns them; none for a worker without a device.
        workers: how many workers there are on this host.
        environment: the caller's; the number of threads is left alone where it is set.
    """
    alone = bool(devices) and is_cpu(devices)  # certificates must not depend on the number of threads
    threads = 1 if alone else max(1, available_cores() // workers)
    shown = _shown(devices, environment) if devices else {"CUDA_VISIBLE_DEVICES": ""}
    return {**{name: str(threads) for name in THREAD_VARIABLES if not environment.get(name)}, **shown}


def show_devices(devices: Sequence[Device]) -> dict[str, str | None]:
    """Show this process its devices, and return what the variables were before, None for those that were not set."""
    return set_environment(_shown(devices, os.environ))


def _shown(devices: Sequence[Device], environment: Environment) -> dict[str, str]:
    """Return the variables that show a process its devices and let it launch enough for several at once."""
    several = len(devices) > 1 and devices[0].kind == CUDA and not environment.get(LAUNCH_QUEUES)
    return {**visibility(devices), **({LAUNCH_QUEUES: _LAUNCH_QUEUES_SCALE} if several else {})}
