"""Where originals are kept: beside the parameters if their device has room, else in host memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_proofpack.edits import edited, injected, target
from pytest_proofpack.editspec import parse_edit_spec
from pytest_proofpack.families import analyze_layout, input_embedding
from pytest_proofpack.records import EditSpec
from tests.small_models import fingerprint, small_model

GB = 10**9


@pytest.mark.parametrize(
    ("free", "left_free", "expected"),
    [(21, 0, True), (19, 0, False), (31, 30, True), (29, 30, False), (29, 10, True)],
    ids=["a fifth", "less than a fifth", "what is planned", "less than is planned", "the fifth counts if it is more"],
)
def test_copies_leave_a_fifth_free_or_what_the_plan_asks_for(
    free: int, left_free: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has 100 GB; the copy takes 4, of which 1 is in blocks that the allocator holds already."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: ((free + 3) * GB, 100 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 51 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 50 * GB)
    parameter: Any = SimpleNamespace(device=torch.device("cuda", 0), nbytes=4 * GB)
    assert target.has_room(parameter, left_free * GB) is expected


def test_every_edit_and_error_asks_with_the_number_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def has_room(_parameter: Tensor, left_free: int) -> bool:
        asked.append(left_free)
        return False

    monkeypatch.setattr(target, "has_room", has_room)
    model = small_model("llama")
    layout, spec = analyze_layout(model), parse_edit_spec("quant_rtn:4:32:ffn")
    assert isinstance(spec, EditSpec)
    before = fingerprint(model)
    with edited(model, layout, spec, seed=0, left_free=7):
        pass
    for fault in ("extreme_quant", "shape_mismatch"):
        with injected(model, layout, fault, seed=0, left_free=7):
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

    monkeypatch.setattr(target, "has_room", lambda _parameter, _left_free: False)
    monkeypatch.setattr(target, "_move", move)
    with injected(model, layout, "shape_mismatch", seed=0):
        away = list(moves)
        assert input_embedding(model).weight is not old
    assert len(away) == (1 if layout.head_tied else 2)
    assert away[0] == (old.shape, True, "cpu")
    assert len(moves) == 2 * len(away)
    assert moves[-1] == (old.shape, True, "cpu"), "the larger one has to go first"
    assert fingerprint(model) == before
