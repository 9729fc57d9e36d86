"""Devices in a pytest session: found once, handed to the workers, and as many workers as there are devices."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pytest_proofpack.common.environment import restore_environment
from pytest_proofpack.common.words import memory_size, printable
from pytest_proofpack.devices.inventory import (
    Device,
    available_cores,
    from_text,
    is_cpu,
    slot_count,
    to_text,
    visible_devices,
)
from pytest_proofpack.devices.leases import Waiting, describe_owner
from pytest_proofpack.devices.lock_folder import lease_directory
from pytest_proofpack.devices.model_shapes import expected_plan
from pytest_proofpack.devices.placement import ProcessDevices, own_first, show_devices, worker_environment
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.scheduling.costs import CPU as CPU_SPEED
from pytest_proofpack.scheduling.costs import GPU as GPU_SPEED
from pytest_proofpack.scheduling.workload import DeviceFacts

if TYPE_CHECKING:
    from pytest_proofpack.config.settings import Settings
    from pytest_proofpack.engine.workbench import Workbench
    from pytest_proofpack.runs.run import Run

WORKER_INPUT = "proofpack_devices"
"""Key in xdist's ``workerinput``: what a worker of this host sees, its own device first."""


def process_devices(config: pytest.Config, settings: Settings) -> ProcessDevices:
    """Find the devices of this process and show them to it, before torch is loaded.

    A worker of this host is told them by the controller; one on another host finds them itself.

    Raises:
        ConfigurationError: the device that was asked for is not there.
    """
    given: dict[str, Any] = getattr(config, "workerinput", {})
    memory = None if settings.gpu_memory is None else settings.gpu_memory * 2**30
    if WORKER_INPUT in given:
        devices: Sequence[Device] = from_text(given[WORKER_INPUT])
    elif config.option.collectonly and not given:
        devices = visible_devices("cpu", os.environ)  # nothing will be computed, so nobody is asked
    else:
        devices = visible_devices(settings.device, os.environ, memory=memory)
        if given and not is_cpu(devices):
            devices = own_first(devices, int(given["workerid"].removeprefix("gw")) % len(devices))
    before = show_devices(devices)
    config.add_cleanup(lambda: restore_environment(before))
    owner = describe_owner(given.get("mainargv", sys.argv), given.get("workerid"))
    waiting = Waiting(lease_directory(os.environ), owner, settings.device_timeout, _speaker(config))
    return ProcessDevices(devices, waiting)


class DeviceHooks:
    """Registered in the controller.

    Attributes:
        devices: all devices that the run may use.
        facts: what the scheduler needs to know of them; the models' needs are filled in when they have been checked.
    """

    def __init__(self, config: pytest.Config, bench: Workbench, devices: Sequence[Device]) -> None:
        self._config = config
        self._bench = bench
        self.devices = tuple(devices)
        self._needed: dict[str, int] = {}
        self._seen: dict[int, tuple[Device, ...]] = {}
        speed = CPU_SPEED if is_cpu(self.devices) else GPU_SPEED
        self.facts = DeviceFacts(speed, self._needed, slot_count(self.devices))

    def pytest_report_header(self) -> str | None:
        """Name the devices."""
        if self._config.option.collectonly or is_cpu(self.devices):
            return None
        kinds = dict.fromkeys(f"{device.name}, {memory_size(device.total_bytes)}" for device in self.devices)
        count, shown = len(self.devices), "; ".join(kinds)
        return printable(f"proofpack: 1 GPU ({shown})" if count == 1 else f"proofpack: {count} GPUs ({shown} each)")

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_xdist_auto_num_workers(self) -> int | None:
        """Answer ``-n auto``: one worker per device; on a CPU one per physical core, as far as memory allows."""
        if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or self._config.option.collectonly:
            return None
        if not is_cpu(self.devices):
            return len(self.devices)
        cores = min(available_cores(), psutil.cpu_count(logical=False) or available_cores())
        return max(1, min(cores, _fitting_workers(self._bench.run, self.devices)))

    def pytest_sessionstart(self) -> None:
        """Tell the scheduler how many workers' devices each model takes, now that the models have been checked."""
        if is_cpu(self.devices):
            return  # one device for any number of workers: every model takes one slot
        workers = len(getattr(self._config.option, "tx", None) or [])
        slots = min(workers, self.facts.slots or workers)
        for model, plan in self._bench.plans.items():
            # With fewer workers than devices, every worker stands for several.
            self._needed[model] = max(1, -(-plan.devices * slots // len(self.devices)))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[Any]) -> None:
        """Give every worker of this host its own device and its share of the cores, for as long as it is restarted."""
        local = [spec for spec in specs if _is_ours(spec)]
        for number, spec in enumerate(local):
            seen = self._seen_by(number)
            spec.env.update(worker_environment(seen, len(local), os.environ))
            self._seen[id(spec)] = seen

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a new worker which devices it sees. A worker without any gets no items, and is told of the CPU."""
        seen = self._seen.get(id(node.gateway.spec))
        if seen is not None:
            node.workerinput[WORKER_INPUT] = to_text(seen or visible_devices("cpu", os.environ))

    def _seen_by(self, number: int) -> tuple[Device, ...]:
        return self.devices if is_cpu(self.devices) else own_first(self.devices, number)


def _is_ours(spec: Any) -> bool:
    """Tell whether a worker runs on this host and nobody else has chosen its devices."""
    return bool(spec.popen and not spec.via and "CUDA_VISIBLE_DEVICES" not in spec.env)


def _fitting_workers(run: Run, devices: Sequence[Device]) -> int:
    """Return how many workers' largest models fit into the host's memory together."""
    try:
        needs = [expected_plan(run, model, devices).total_bytes for model in run.suite.models]
    except ConfigurationError:
        return 1  # whoever checks the models says what is wrong
    available: int = psutil.virtual_memory().available
    return available // max(needs, default=1)


def _speaker(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that shows a line at once, though an item is running and its output is captured."""

    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    prefix = "proofpack: " if worker is None else f"proofpack: {worker['workerid']} is "

    def say(line: str) -> None:
        capture = config.pluginmanager.get_plugin("capturemanager")
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        with contextlib.nullcontext() if capture is None else capture.global_and_fixture_disabled():
            if worker is not None:  # its standard output is nobody's, its standard error the controller's
                print(printable(prefix + line), file=sys.stderr, flush=True)  # noqa: T201
            elif reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(printable(prefix + line))

    return say
