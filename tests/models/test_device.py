"""How much of a device may be taken."""

from __future__ import annotations

import pytest
import torch

from pytest_proofpack.edits.target import room_for_copies
from pytest_proofpack.models.device import free_memory, gpus_of, limit_memory

GIB = 2**30
GPU = torch.device("cuda:1")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return what torch says of a GPU of 100 GiB, of which others have 10 and this process 30, 5 of them for later."""
    told: dict[str, float] = {"fraction": 1.0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * GIB, 100 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 30 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 25 * GIB)

    def set_fraction(share: float, number: int) -> None:
        told["fraction" if type(number) is int else "for no number"] = share

    def fraction(number: int) -> float:
        return told["fraction" if type(number) is int else "for no number"]

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", fraction)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", set_fraction)
    return told


@pytest.mark.parametrize(
    ("limit", "free", "total"),
    [(None, 60, 100), (80, 50, 80), (95, 60, 95), (30, 0, 30), (20, 0, 20), (200, 60, 100)],
    ids=str,
)
def test_a_limit_holds_for_everything_that_is_taken(
    gpu: dict[str, float], limit: float | None, free: int, total: int
) -> None:
    limit_memory([GPU], limit)

    assert free_memory(GPU) == (free * GIB, total * GIB)


def test_a_gpu_without_a_number_is_the_usual_one(gpu: dict[str, float]) -> None:
    limit_memory([torch.device("cuda")], 80)

    assert free_memory(torch.device("cuda")) == (50 * GIB, 80 * GIB)


def test_a_model_lies_on_gpus_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)

    assert gpus_of(torch.device("cuda"), {}) == [torch.device("cuda:2")]
    assert gpus_of(GPU, {}) == [GPU]
    assert gpus_of(GPU, {1: GIB, 3: GIB}) == [GPU, torch.device("cuda:3")]
    assert gpus_of(torch.device("cpu"), {}) == []


def test_copies_of_originals_keep_to_it(gpu: dict[str, float]) -> None:
    assert room_for_copies(GPU, left_free=0) == (60 + 5 - 20) * GIB
    limit_memory([GPU], 50)

    assert room_for_copies(GPU, left_free=0) == (20 + 5 - 10) * GIB
    assert gpu["fraction"] == 0.5


def test_the_hosts_memory_has_no_such_limit(gpu: dict[str, float]) -> None:
    limit_memory([torch.device("cpu")], 1)

    assert gpu["fraction"] == 1.0
    assert free_memory(torch.device("cpu"))[1] > 1 * GIB
