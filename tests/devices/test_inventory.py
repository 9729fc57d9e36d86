"""Which devices a run finds: by a driver that answers like NVIDIA's, under the caller's environment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_proofpack.devices.inventory import (
    Device,
    Probe,
    from_text,
    slot_count,
    to_text,
    visibility,
    visible_devices,
)
from pytest_proofpack.errors import ConfigurationError

GB = 2**30
RESERVED = GB // 2


class FakeGpu:
    """One GPU as the driver describes it; ``parts`` are what it is divided into."""

    def __init__(
        self, uuid: str, name: str = "H100", *, parts: tuple[str | None, ...] = (), lost: bool = False
    ) -> None:
        self.uuid, self.name, self.parts, self.lost = uuid, name, parts, lost
        self.total = 80 * GB


class NvmlError(Exception):
    """What NVML raises."""


class FakeNvml:
    """Answers the calls of pynvml that the inventory makes."""

    NVMLError = NvmlError
    NVML_DEVICE_MIG_ENABLE = 1
    nvmlMemory_v2 = 2  # noqa: N815 - the name that pynvml gives it

    def __init__(self, *gpus: FakeGpu, driver: bool = True, second_version: bool = True) -> None:
        self.gpus, self.driver, self.second_version = gpus, driver, second_version
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NvmlError
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        if self.gpus[index].lost:
            raise NvmlError
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu, version: int = 1) -> Any:  # noqa: N802
        if version == 2 and not self.second_version:
            raise NvmlError
        return SimpleNamespace(total=gpu.total, reserved=RESERVED)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> tuple[int, int]:  # noqa: N802
        if gpu.name == "RTX":
            raise NvmlError  # as GPUs do that cannot be divided
        return (1, 1) if gpu.parts else (0, 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:  # noqa: N802
        return len(gpu.parts)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, place: int) -> FakeGpu:  # noqa: N802
        part = gpu.parts[place]
        if part is None:
            raise NvmlError
        return FakeGpu(part, f"{gpu.name} MIG")


class Machine(Probe):
    """A machine with this driver, and a torch built for this."""

    def __init__(self, *gpus: FakeGpu, build: str = "cuda", torch: tuple[Device, ...] = (), **facts: Any) -> None:
        self.driver, self.build, self.torch = FakeNvml(*gpus, **facts), build, list(torch)

    def torch_build(self) -> str:
        return self.build

    def nvml(self) -> Any:
        return self.driver

    def torch_devices(self) -> list[Device]:
        return self.torch


FOUR = tuple(FakeGpu(f"GPU-{letter * 8}-0") for letter in "abcd")


def seen(machine: Machine, requested: str = "auto", **environment: str) -> list[str]:
    return [device.uuid for device in visible_devices(requested, environment, probe=machine)]


@pytest.mark.parametrize(
    ("value", "letters"),
    [
        ("0,1,2,3", "abcd"),
        ("2,0", "ca"),
        (" 3 , 1 ", "db"),
        ("GPU-cccccccc-0,GPU-aaaaaaaa-0", "ca"),
        ("GPU-bb", "b"),
        ("1,GPU-dd", "bd"),
        ("", ""),
        ("-1", ""),
        ("NoDevFiles", ""),
        ("0,-1,2", "a"),  # CUDA stops at the first that names nothing
        ("1,7,0", "b"),
        ("GPU-", ""),  # the beginning of several
        ("GPU-ffff,0", ""),
        ("0,1,0", ""),  # CUDA shows none if one is named twice
        ("0,GPU-aaaa", ""),
    ],
)
def test_the_callers_choice_is_respected_as_cuda_reads_it(value: str, letters: str) -> None:
    found = visible_devices("auto", {"CUDA_VISIBLE_DEVICES": value}, probe=Machine(*FOUR))
    if not letters:
        assert [device.kind for device in found] == ["cpu"]
    else:
        assert [device.uuid for device in found] == [f"GPU-{letter * 8}-0" for letter in letters]
        assert [device.index for device in found] == list(range(len(letters)))


def test_all_gpus_are_found_without_what_the_driver_keeps_for_itself() -> None:
    machine = Machine(*FOUR)
    found = visible_devices("auto", {}, probe=machine)
    assert [(device.index, device.name, device.total_bytes, device.kind) for device in found] == [
        (index, "H100", 80 * GB - RESERVED, "cuda") for index in range(4)
    ]
    assert machine.driver.open == 0
    assert slot_count(found) == 4
    assert from_text(to_text(found)) == found
    assert visible_devices("cuda", {}, probe=Machine(*FOUR, second_version=False))[0].total_bytes == 80 * GB


def test_memory_can_be_limited() -> None:
    assert [own.total_bytes for own in visible_devices("auto", {}, memory=24 * GB, probe=Machine(*FOUR))] == [
        24 * GB
    ] * 4
    assert visible_devices("auto", {}, memory=900 * GB, probe=Machine(*FOUR))[0].total_bytes == 80 * GB - RESERVED


def test_a_gpu_that_is_lost_does_not_shift_the_others() -> None:
    machine = Machine(FOUR[0], FakeGpu("GPU-lost", lost=True), FOUR[2])
    assert seen(machine) == [FOUR[0].uuid, FOUR[2].uuid]
    assert seen(machine, CUDA_VISIBLE_DEVICES="2") == [FOUR[2].uuid]
    assert seen(machine, CUDA_VISIBLE_DEVICES="0,1,2") == [FOUR[0].uuid]


def test_numbers_of_different_gpus_need_an_order() -> None:
    machine = Machine(FakeGpu("GPU-display", "RTX"), *FOUR[:2])
    assert seen(machine) == ["GPU-display", FOUR[0].uuid, FOUR[1].uuid]
    assert seen(machine, CUDA_VISIBLE_DEVICES="GPU-aaaa") == [FOUR[0].uuid]
    assert seen(machine, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="PCI_BUS_ID") == [FOUR[0].uuid]
    with pytest.raises(ConfigurationError, match=r"different ones \(H100, RTX\).*CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        seen(machine, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="FASTEST_FIRST")


def test_parts_of_a_gpu_are_devices_of_their_own() -> None:
    machine = Machine(FakeGpu("GPU-mig", parts=("MIG-1111", None, "MIG-2222")), FOUR[1])
    assert seen(machine) == ["MIG-1111", "MIG-2222", FOUR[1].uuid]
    assert seen(machine, CUDA_VISIBLE_DEVICES="MIG-22") == ["MIG-2222"]
    assert seen(machine, CUDA_VISIBLE_DEVICES="0") == ["MIG-1111"]
    assert seen(machine, CUDA_VISIBLE_DEVICES="GPU-mig") == ["MIG-1111"]
    parts = visible_devices("cuda", {}, probe=machine)[:2]
    assert visibility(parts) == {"CUDA_VISIBLE_DEVICES": "MIG-1111"}  # CUDA shows a process one part only


def test_what_is_found_can_be_shown_to_a_process_in_another_order() -> None:
    found = visible_devices("auto", {"CUDA_VISIBLE_DEVICES": "3,1"}, probe=Machine(*FOUR))
    assert visibility(reversed(found)) == {"CUDA_VISIBLE_DEVICES": f"{FOUR[1].uuid},{FOUR[3].uuid}"}
    assert visibility(visible_devices("cpu", {})) == {}


def test_torch_is_asked_where_the_driver_says_nothing() -> None:
    answers = tuple(Device(index, f"uuid-{index}", "Orin", 60 * GB, "cuda") for index in range(2))
    found = visible_devices("auto", {}, probe=Machine(driver=False, torch=answers))
    assert [device.uuid for device in found] == ["uuid-0", "uuid-1"]
    assert visibility(found) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    amd = visible_devices("auto", {"HIP_VISIBLE_DEVICES": "5,3"}, probe=Machine(build="hip", torch=answers))
    assert visibility(amd[1:]) == {"HIP_VISIBLE_DEVICES": "3"}


@pytest.mark.parametrize("machine", [Machine(driver=False), Machine(), Machine(*FOUR, build="cpu")])
def test_without_a_gpu_that_torch_can_use_the_cpu_is_taken(machine: Machine) -> None:
    (device,) = visible_devices("auto", {}, probe=machine)
    assert device.kind == "cpu"
    assert slot_count([device]) >= 1
    with pytest.raises(ConfigurationError, match="--proofpack-device=cuda: no GPU can be used"):
        visible_devices("cuda", {}, probe=machine)


def test_a_gpu_is_not_used_unless_asked_for() -> None:
    assert visible_devices("cpu", {}, probe=Machine(*FOUR))[0].kind == "cpu"
    with pytest.raises(ConfigurationError, match=r"CUDA_VISIBLE_DEVICES is ''"):
        visible_devices("cuda", {"CUDA_VISIBLE_DEVICES": ""}, probe=Machine(*FOUR))


def test_this_machine_can_be_asked() -> None:
    import torch  # what is really installed here

    build = Probe().torch_build()
    assert build == ("hip" if torch.version.hip else "cuda" if torch.version.cuda else "cpu")
    assert (visible_devices("auto", {})[0].kind == "cuda") == torch.cuda.is_available()
