"""The devices of one process: what it is shown, what it leases while a model is loaded, and how they are shared out."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.common.environment import restore_environment
from pytest_proofpack.devices.inventory import Device, available_cores, visible_devices
from pytest_proofpack.devices.leases import Waiting, acquire
from pytest_proofpack.devices.memory_plan import MemoryPlan, plan_memory
from pytest_proofpack.devices.placement import (
    LAUNCH_QUEUES,
    Holding,
    Placement,
    ProcessDevices,
    own_first,
    show_devices,
    worker_environment,
)
from pytest_proofpack.devices.shape import guessed_shape
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.errors import ConfigurationError, EvaluationError
from pytest_proofpack.plan.records import WindowPlan
from pytest_proofpack.runs.run import resolve_run
from tests.support.default_settings import DEFAULTS

GIB = 2**30
GPUS = tuple(Device(index, f"GPU-{index}", "fake", 80 * GIB, "cuda", f"GPU-{index}") for index in range(4))
PARTS = tuple(Device(index, f"MIG-{index}", "fake", 10 * GIB, "cuda", f"MIG-{index}") for index in range(3))
CPU = visible_devices("cpu", {})


def plan_for(parameters: int, devices: Sequence[Device] = GPUS) -> MemoryPlan:
    sizes = [device.total_bytes for device in devices]
    return plan_memory("any", guessed_shape(parameters), WindowPlan(512, 100, 100, 1), sizes, kind=devices[0].kind)


def waiting_in(directory: Path, timeout: float = 60.0) -> Waiting:
    return Waiting(directory, "me", timeout, pause=0.02)


def is_free(device: Device, directory: Path) -> bool:
    try:
        acquire([device], 1, Waiting(directory, "looking", timeout=0)).release()
    except EvaluationError:
        return False
    return True


def test_a_worker_sees_its_own_device_first_and_all_others() -> None:
    seen = own_first(GPUS, 2)
    assert [device.uuid for device in seen] == ["GPU-2", "GPU-3", "GPU-0", "GPU-1"]
    variables = worker_environment(seen, 4, {})
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-2,GPU-3,GPU-0,GPU-1"
    assert int(variables["OMP_NUM_THREADS"]) == max(1, available_cores() // 4)
    assert [device.uuid for device in own_first(PARTS, 1)] == ["MIG-1"]


@pytest.mark.parametrize(
    ("devices", "environment", "scale"),
    [(GPUS, {}, "4x"), (GPUS, {LAUNCH_QUEUES: "2x"}, None), (GPUS[:1], {}, None), (CPU, {}, None)],
    ids=["several GPUs", "the user's own", "one GPU", "a CPU"],
)
def test_several_gpus_have_long_queues_unless_the_user_says_otherwise(
    devices: Sequence[Device],
    environment: dict[str, str],
    scale: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert worker_environment(devices, 1, environment).get(LAUNCH_QUEUES) == scale
    monkeypatch.delenv(LAUNCH_QUEUES, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = show_devices(devices)
    try:
        assert os.environ.get(LAUNCH_QUEUES) == (scale or environment.get(LAUNCH_QUEUES))
    finally:
        restore_environment(before)
    assert os.environ.get(LAUNCH_QUEUES) == environment.get(LAUNCH_QUEUES)


def test_a_worker_without_a_device_is_shown_none() -> None:
    assert own_first(GPUS, 4) == ()
    assert worker_environment((), 5, {})["CUDA_VISIBLE_DEVICES"] == ""


def test_on_a_cpu_every_worker_has_one_thread_unless_the_user_says_otherwise() -> None:
    assert worker_environment(CPU, 2, {}) == {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    assert worker_environment(CPU, 2, {"OMP_NUM_THREADS": "3"}) == {"RAYON_NUM_THREADS": "1"}


def test_a_model_is_placed_on_the_own_device_or_on_another_that_is_free(tmp_path: Path) -> None:
    devices = ProcessDevices(own_first(GPUS, 1), waiting_in(tmp_path / "leases"))
    plan = plan_for(7_000_000_000)
    first = devices.hold(plan)
    assert first.placement == Placement("cuda:0", {}, plan.batch_windows, plan.left_free, plan.lanes)
    assert [device.uuid for device in first.lease.devices] == ["GPU-1"]
    second = ProcessDevices(own_first(GPUS, 1), waiting_in(tmp_path / "leases")).hold(plan)
    assert (second.placement.device, second.lease.devices[0].uuid) == ("cuda:1", "GPU-2")
    first.release()
    assert is_free(GPUS[1], tmp_path / "leases")
    assert not is_free(GPUS[2], tmp_path / "leases")
    second.release()


def test_a_large_model_takes_the_lent_devices_besides_its_own(tmp_path: Path) -> None:
    plan = plan_for(110_000_000_000)
    assert plan.devices == 3
    devices = ProcessDevices(own_first(GPUS, 2), waiting_in(tmp_path / "leases"))
    holding = devices.hold(plan, borrowed=("GPU-1", "GPU-0"))
    assert {device.uuid for device in holding.lease.devices} == {"GPU-2", "GPU-1", "GPU-0"}
    assert holding.placement.device == "cuda:0"
    assert holding.placement.max_memory == dict.fromkeys((0, 2, 3), plan.weights_per_device)
    holding.release()


def test_what_was_waited_for_in_vain_is_only_looked_at_from_then_on(tmp_path: Path) -> None:
    """Otherwise every item of a session would wait as long again for a device that is held for hours."""
    plan, directory = plan_for(7_000_000_000, GPUS[:1]), tmp_path / "leases"
    devices = ProcessDevices(GPUS[:1], waiting_in(directory, 0.3))
    with acquire(GPUS[:1], 1, Waiting(directory, "process 7 of ann: pytest", 0.0)):
        with pytest.raises(EvaluationError, match=r"not free within 0\.3 s: GPU-0 is held by process 7 of ann: pytest"):
            devices.hold(plan)
        begun = time.monotonic()
        with pytest.raises(EvaluationError, match="1 of 1 devices are not free: GPU-0 is held by process 7 of ann"):
            devices.hold(plan)
        assert time.monotonic() - begun < 0.3
    devices.hold(plan).release()


def test_devices_that_are_too_small_are_not_taken(tmp_path: Path) -> None:
    mixed = (replace(GPUS[0], total_bytes=8 * GIB), GPUS[1])
    holding = ProcessDevices(mixed, waiting_in(tmp_path / "leases")).hold(plan_for(7_000_000_000, mixed))
    assert (holding.placement.device, holding.lease.devices[0].uuid) == ("cuda:1", "GPU-1")
    holding.release()


def test_on_a_cpu_nothing_is_leased(tmp_path: Path) -> None:
    holding = ProcessDevices(CPU, waiting_in(tmp_path / "leases")).hold(plan_for(1_000_000, CPU))
    assert holding.placement.device == "cpu"
    assert not (tmp_path / "leases").exists()


class LeasedCpu(ProcessDevices):
    """Leases devices that are not there, and lets the CPU compute in their place."""

    def hold(self, plan: MemoryPlan, borrowed: Sequence[str] = ()) -> Holding:
        holding = super().hold(plan, borrowed)
        return replace(holding, placement=Placement("cpu", {}, plan.batch_windows))


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    run = resolve_run(replace(DEFAULTS, suite="tiny", out=str(tmp_path / "out"), no_pack=True))
    return Workbench(run, LeasedCpu(GPUS[:2], waiting_in(tmp_path / "leases")))


def test_devices_are_held_while_a_model_is_loaded(bench: Workbench, tmp_path: Path) -> None:
    request = bench.run.requests[0]
    baseline = bench.baseline(request)
    assert bench.baseline(request) is baseline
    assert baseline.batch.windows == bench.inputs.plans[request.model.id].batch_windows
    assert [is_free(device, tmp_path / "leases") for device in GPUS[:2]] == [False, True]
    bench.release()
    assert is_free(GPUS[0], tmp_path / "leases")
    bench.borrow(("GPU-1",))
    bench.baseline(request)
    assert [is_free(device, tmp_path / "leases") for device in GPUS[:2]] == [False, True]
    bench.release()


def test_devices_are_given_back_when_a_model_cannot_be_loaded(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **_options: object) -> None:
        assert not is_free(GPUS[0], tmp_path / "leases")
        raise EvaluationError("out of memory")

    monkeypatch.setattr("pytest_proofpack.engine.baseline.load_model", fail)
    with pytest.raises(EvaluationError, match="out of memory"):
        bench.baseline(bench.run.requests[0])
    assert is_free(GPUS[0], tmp_path / "leases")


def test_a_model_that_fits_nowhere_is_refused_before_it_is_loaded(bench: Workbench, tmp_path: Path) -> None:
    small = tuple(replace(device, total_bytes=2**20) for device in GPUS)
    tight = Workbench(bench.run, LeasedCpu(small, waiting_in(tmp_path / "leases")))
    with pytest.raises(ConfigurationError, match=r"does not fit.*There is: 0\.00098 GiB, 0\.00098 GiB"):
        tight.inputs.prepare(bench.run.suite.models[0])
