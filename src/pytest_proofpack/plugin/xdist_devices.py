"""Devices in a pytest session: found once, handed to the workers, and as many workers as there are devices."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pytest_proofpack.common.environment import restore_environment
from pytest_proofpack.common.words import memory_size, printable
from pytest_proofpack.devices.inventory import (
    Device,
    available_cores,
    is_cpu,
    slot_count,
    visible_devices,
)
from pytest_proofpack.devices.leases import Waiting, describe_owner
from pytest_proofpack.devices.lock_folder import lease_directory
from pytest_proofpack.devices.model_shapes import expected_plan
from pytest_proofpack.devices.placement import ProcessDevices, own_first, show_devices, worker_environment
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plugin.terminal import speaker
from pytest_proofpack.plugin.xdist_hosts import host_of
from pytest_proofpack.scheduling.costs import CPU as CPU_SPEED
from pytest_proofpack.scheduling.costs import GPU as GPU_SPEED
from pytest_proofpack.scheduling.workload import DeviceFacts

if TYPE_CHECKING:
    from pytest_proofpack.config.settings import Settings
    from pytest_proofpack.devices.memory_plan import MemoryPlan
    from pytest_proofpack.runs.run import Run


def process_devices(config: pytest.Config, settings: Settings, given: Sequence[Device] | None = None) -> ProcessDevices:
    """Find the devices of this process and show them to it, before torch is loaded.

    Args:
        config: of the session.
        settings: the resolved options.
        given: what the controller told a worker of this host; None in the controller, and on another host, whose worker
            finds them itself.

    Raises:
        ConfigurationError: the device that was asked for is not there.
    """
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    memory = None if settings.gpu_memory is None else settings.gpu_memory * 2**30
    if given is not None:
        devices = given
    elif config.option.collectonly and worker is None:
        devices = visible_devices("cpu", os.environ)  # nothing will be computed, so nobody is asked
    else:
        devices = visible_devices(settings.device, os.environ, memory=memory)
        if worker is not None and not is_cpu(devices):
            devices = own_first(devices, int(worker["workerid"].removeprefix("gw")) % len(devices))
    before = show_devices(devices)
    config.add_cleanup(lambda: restore_environment(before))
    owner = describe_owner(*((sys.argv, None) if worker is None else (worker["mainargv"], worker["workerid"])))
    waiting = Waiting(lease_directory(os.environ), owner, settings.device_timeout, speaker(config))
    return ProcessDevices(devices, waiting)


def automatic_workers(run: Run, devices: Sequence[Device]) -> int:
    """Return how many workers ``-n auto`` means: one per device; on a CPU one per core, as far as memory allows."""
    if not is_cpu(devices):
        return len(devices)
    cores = min(available_cores(), psutil.cpu_count(logical=False) or available_cores())
    return max(1, min(cores, _fitting_workers(run, devices)))


def device_facts(devices: Sequence[Device], plans: Mapping[str, MemoryPlan], *, workers: int) -> DeviceFacts:
    """Return what the scheduler needs to know of devices, and of how many workers' devices each model takes.

    Args:
        devices: all devices that the run may use.
        plans: the memory plan of every model, by id.
        workers: how many workers there are going to be.
    """
    slots = slot_count(devices)
    if is_cpu(devices):
        return DeviceFacts(CPU_SPEED, {}, slots)  # one device for any number of workers: every model takes one slot
    shared = min(workers, slots or workers)
    # With fewer workers than devices, every worker stands for several.
    needed = {model: max(1, -(-plan.devices * shared // len(devices))) for model, plan in plans.items()}
    return DeviceFacts(GPU_SPEED, needed, slots)


class DeviceHooks:
    """Registered in the controller: shows every worker its devices.

    Attributes:
        devices: all devices that the run may use.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)
        self._seen: dict[int, tuple[Device, ...]] = {}

    def pytest_report_header(self) -> str | None:
        """Name the devices."""
        if is_cpu(self.devices):
            return None
        kinds = dict.fromkeys(f"{device.name}, {memory_size(device.total_bytes)}" for device in self.devices)
        count, shown = len(self.devices), "; ".join(kinds)
        return printable(f"proofpack: 1 GPU ({shown})" if count == 1 else f"proofpack: {count} GPUs ({shown} each)")

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[Any]) -> None:
        """Give every worker of this host its own device and its share of the cores, for as long as it is restarted."""
        local = [spec for spec in specs if _is_ours(spec)]
        for number, spec in enumerate(local):
            seen = self._seen_by(number)
            spec.env.update(worker_environment(seen, len(local), os.environ))
            self._seen[id(spec)] = seen

    def shown_to(self, spec: Any) -> tuple[Device, ...] | None:
        """Return what a worker sees, by the spec that xdist starts it by; None for one that looks for itself.

        A worker without any device gets no items, and is told of the CPU.
        """
        seen = self._seen.get(id(spec))
        return None if seen is None else seen or tuple(visible_devices("cpu", os.environ))

    def _seen_by(self, number: int) -> tuple[Device, ...]:
        return self.devices if is_cpu(self.devices) else own_first(self.devices, number)


def _is_ours(spec: Any) -> bool:
    """Tell whether a worker runs on this host and nobody else has chosen its devices."""
    return not host_of(spec) and "CUDA_VISIBLE_DEVICES" not in spec.env


def _fitting_workers(run: Run, devices: Sequence[Device]) -> int:
    """Return how many workers' largest models fit into the host's memory together."""
    try:
        needs = [expected_plan(run, model, devices).total_bytes for model in run.unedited]
    except ConfigurationError:
        return 1  # whoever checks the models says what is wrong
    available: int = psutil.virtual_memory().available
    return available // max(needs, default=1)
