"""Where originals are kept: beside the parameters if their device has room, else in host memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_proofpack.edits import target
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.models.layout import analyze_layout, input_embedding
from tests.support.faults import injected
from tests.support.small_models import edit_spec, fingerprint, small_model

GB = 10**9


class Parameters:
    """A model of parameters of 2 GB each on one GPU, and the devices on which they are copied."""

    def __init__(self) -> None:
        self.device, self.nbytes = torch.device("cuda", 0), 2 * GB
        self.copies: list[str] = []

    def get_parameter(self, _name: str) -> Parameters:
        return self

    def detach(self) -> Parameters:
        return self

    def to(self, place: torch.device, *, copy: bool) -> Tensor:
        assert copy
        self.copies.append(place.type)
        return torch.zeros(())

    def copy_(self, values: Tensor) -> None:
        pass


@pytest.mark.parametrize(
    ("free", "left_free", "beside"),
    [(25, 0, 2), (20, 0, 0), (35, 30, 2), (30, 30, 0), (35, 10, 4)],
    ids=["a fifth", "less than a fifth", "what is planned", "less than is planned", "the fifth counts if it is more"],
)
def test_copies_leave_a_fifth_free_or_what_the_plan_asks_for(
    free: int, left_free: int, beside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has 100 GB, of which 1 more is free in blocks that the allocator holds already. It is asked once."""
    asked = []

    def memory(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return free * GB, 100 * GB

    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 51 * GB)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _device: 1.0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 50 * GB)
    model: Any = Parameters()
    layout: Any = None
    with target.edit_target(model, layout, originals=target.Originals(left_free * GB)) as own:
        for name in ("one", "one", "two", "three", "four"):
            own.keep(name)
    assert model.copies == ["cuda"] * beside + ["cpu"] * (4 - beside)
    assert asked == [torch.device("cuda", 0)]


def test_every_edit_and_error_asks_with_the_number_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def room(_device: torch.device, left_free: int) -> float:
        asked.append(left_free)
        return 0.0

    monkeypatch.setattr(target, "room_for_copies", room)
    model = small_model("llama")
    layout, spec = analyze_layout(model), edit_spec("quant_rtn:4:32:ffn")
    before = fingerprint(model)
    with edited(model, layout, spec, seed=0, originals=target.Originals(left_free=7)):
        pass
    for fault in ("extreme_quant", "shape_mismatch"):
        with injected(model, layout, fault, seed=0, originals=target.Originals(left_free=7)):
            pass
    assert set(asked) == {7}
    assert fingerprint(model) == before


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_without_room_old_embeddings_wait_on_the_host_until_the_larger_ones_are_gone(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    before, old = fingerprint(model), input_embedding(model).weight
    moves = []

    def move(parameter: Tensor, device: torch.device) -> None:
        moves.append((parameter.shape, input_embedding(model).weight is old, device.type))

    monkeypatch.setattr(target, "room_for_copies", lambda _device, _left_free: 0.0)
    monkeypatch.setattr(target, "_move", move)
    with injected(model, layout, "shape_mismatch", seed=0):
        away = list(moves)
        assert input_embedding(model).weight is not old
    assert len(away) == (1 if layout.head_tied else 2)
    assert away[0] == (old.shape, True, "cpu")
    assert len(moves) == 2 * len(away)
    assert moves[-1] == (old.shape, True, "cpu"), "the larger one has to go first"
    assert fingerprint(model) == before


def test_a_model_without_files_has_nothing_to_read_again() -> None:
    assert target.Originals().read("model.norm.weight") is None
