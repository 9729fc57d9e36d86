"""Batches of a model over several devices: their devices work at once, nothing comes too early, no bit changes.

Streams are fakes, of fake devices, that know what comes before what.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from pytest_proofpack.edits import approximation
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.measures.distribution import BaselineDistribution, SubjectDistribution, model_cache_plan
from pytest_proofpack.models import forward, pipeline
from pytest_proofpack.models.forward import BatchSize, window_losses
from pytest_proofpack.models.layout import analyze_layout
from tests.support import fake_devices
from tests.support.fake_devices import NAME, spread, two_devices
from tests.support.fake_streams import FakeStreams, RaceError
from tests.support.small_models import VOCABULARY, edit_spec, small_model

WINDOWS = np.random.default_rng(0).integers(VOCABULARY, size=(7, 24))
SHAPES = ("llama", "gpt2", "mixtral")
COPIES = (torch.ops.aten.copy_, torch.ops.aten._to_copy)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStreams]:
    fakes = FakeStreams()
    for name in ("Stream", "stream", "default_stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(fakes, name))
    monkeypatch.setattr(pipeline, "STREAMED", (NAME,))
    monkeypatch.setattr(fake_devices, "WATCHERS", [fakes])
    pipeline._stream.cache_clear()
    yield fakes
    pipeline._stream.cache_clear()


@pytest.mark.parametrize("shape", SHAPES)
def test_lanes_change_no_bit_and_nothing_comes_too_early(
    shape: str, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(shape)
    with two_devices() as devices:
        spread(model, *devices)
        with monkeypatch.context() as without:
            without.setattr(pipeline, "STREAMED", ())
            expected = window_losses(model, WINDOWS, batch_size=2)
        assert len({stream.number for _, stream, _ in streams.launched}) == 2
        recorder = BaselineDistribution(model_cache_plan(model, WINDOWS))
        assert (window_losses(model, WINDOWS, batch_size=2, observer=recorder) == expected).all()
        with torch.no_grad():  # as an edit does
            for parameter in model.parameters():
                parameter.mul_(1.01)
        compared = SubjectDistribution(recorder.cache())
        window_losses(model, WINDOWS, batch_size=2, observer=compared)
        assert max(compared.facts().kl_mean) > 0
    used = {stream.number for _, stream, _ in streams.launched}
    assert len(used) == 2 * (1 + 2 + pipeline.SPARE_LANES)


def second_batch_waits(model: PreTrainedModel, streams: FakeStreams, lanes: int | None) -> bool:
    """Tell whether a batch's start on the first device waits for the batch before it to be on the second one."""
    streams.launched.clear()
    starts: list[int] = []
    handle = model.get_submodule("model.embed_tokens").register_forward_pre_hook(
        lambda *_: starts.append(len(streams.launched))
    )
    window_losses(model, WINDOWS, batch_size=BatchSize(2, splits=SPLITS, lanes=lanes))
    handle.remove()
    first, second = starts[:2]
    later = next(stream for _, stream, _ in streams.launched[first:second] if stream.device.index == 1)
    before = max((clock.get(later.number, 0) for _, _, clock in streams.launched[: first + 1]), default=0)
    _, stream, clock = streams.launched[second]
    assert stream.device.index == 0
    return clock.get(later.number, 0) > before


SPLITS: WeakKeyDictionary[PreTrainedModel, forward.Split] = WeakKeyDictionary()


def test_a_batch_does_not_wait_for_the_one_before_it_to_leave_the_other_device(
    streams: FakeStreams,
) -> None:
    model = small_model("llama")
    with two_devices() as devices:
        spread(model, *devices)
        SPLITS[model] = forward.Split.HEAD
        assert not second_batch_waits(model, streams, lanes=None)
        assert second_batch_waits(model, streams, lanes=1)


def test_a_device_does_one_batch_after_the_other(streams: FakeStreams) -> None:
    """Both at a time by halves, they would leave it late, and the next device would have nothing to do meanwhile."""
    model = small_model("llama")
    starts: dict[int, list[int]] = {0: [], 1: []}
    with two_devices() as devices:
        spread(model, *devices)
        SPLITS[model] = forward.Split.HEAD
        for number, layer in ((0, "model.layers.0"), (1, "model.layers.1")):
            projection = model.get_submodule(f"{layer}.self_attn.q_proj")
            projection.register_forward_pre_hook(lambda *_, at=number: starts[at].append(len(streams.launched)))
        streams.launched.clear()
        window_losses(model, WINDOWS, batch_size=BatchSize(2, splits=SPLITS))
    for number, device in enumerate(devices):
        assert len(starts[number]) == 4
        for first, second in itertools.pairwise(starts[number]):
            (_, before, _), (_, stream, clock) = streams.launched[first], streams.launched[second]
            launched = [own for own in streams.launched[:second] if own[1] is before and own[1].device == device]
            assert stream is not before
            assert clock[before.number] == max(own[2][before.number] for own in launched)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_all_layers_are_given_comes_to_a_device_once_per_batch(
    shape: str, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, brought = small_model(shape), []

    def watch(operation: Any, place: torch.device, given: Sequence[torch.Tensor], _made: object) -> None:
        if operation.overloadpacket in COPIES and {own.device.index for own in given} == {0} and place.index == 1:
            brought.append(tuple(given[0].shape))

    monkeypatch.setattr(fake_devices, "WATCHERS", [streams, watch])
    with two_devices() as devices:
        spread(model, *devices)
        assert len(next(own for own in model.base_model.modules() if isinstance(own, torch.nn.ModuleList))) > 2
        size = BatchSize(len(WINDOWS), splits=SPLITS)
        SPLITS[model] = forward.Split.HEAD
        window_losses(model, WINDOWS, batch_size=size)
        hidden = (*WINDOWS.shape, model.config.hidden_size)
        assert brought.count(hidden) == 1
        assert len(brought) == len(set(brought)) + (shape != "gpt2")  # cosines and sines have one shape
        before = len(brought)
        window_losses(model, WINDOWS[::-1].copy(), batch_size=size)
        assert len(brought) == 2 * before


def test_what_batches_share_is_made_where_all_lanes_see_it(
    streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that, and without batches in order, the fakes find the race: this is a test of the tests."""
    model = small_model("llama")
    plan = model_cache_plan(model, WINDOWS)
    with two_devices() as devices:
        spread(model, *devices)
        monkeypatch.setattr("pytest_proofpack.measures.distribution.on_common_stream", streams.nothing)
        monkeypatch.setattr(pipeline.Pipeline, "before_layer", lambda *_: None)
        with pytest.raises((RaceError, EvaluationError), match="may not have written that yet"):
            window_losses(model, WINDOWS, batch_size=2, observer=BaselineDistribution(plan))


def test_what_follows_a_pass_waits_for_all_lanes_also_after_an_error(streams: FakeStreams) -> None:
    model = small_model("llama")
    with two_devices() as devices:
        spread(model, *devices)
        calls: list[None] = []

        def fail_late(*_shown: object) -> None:
            calls.append(None)
            if len(calls) == 3:
                raise ValueError("an observer that fails")

        with pytest.raises(EvaluationError, match="an observer that fails"):
            window_losses(model, WINDOWS, batch_size=2, observer=fail_late)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()  # as putting weights back does: too early, it would be a race


def test_one_device_has_no_lanes(streams: FakeStreams) -> None:
    model = small_model("llama")
    with two_devices() as (first, _):
        spread(model, first, first)
        window_losses(model, WINDOWS, batch_size=2)
    assert len({stream.number for _, stream, _ in streams.launched}) == 1


class OneAfterTheOther(contextlib.nullcontext[Any]):
    """Stands for a pool of threads, in which fake devices are unknown. Streams don't know who launches on them."""

    map = staticmethod(map)

    def __enter__(self) -> OneAfterTheOther:
        return self


def test_matrices_approximated_together_do_not_wait_for_each_other(
    streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each share on streams of its own; values and report are those of one after the other."""
    monkeypatch.setattr(approximation, "STREAMED", (NAME,))
    monkeypatch.setattr(approximation, "ThreadPoolExecutor", OneAfterTheOther)
    layout, edit = analyze_layout(small_model("llama")), edit_spec("lowrank_svd:4:all")
    seen = []
    with two_devices() as devices:
        for together in (1, 3):
            monkeypatch.setattr(approximation, "TOGETHER", together)
            model = small_model("llama")
            spread(model, *devices)
            with edited(model, layout, edit, seed=0) as report:
                seen.append((report, [own.tolist() for own in model.parameters()]))
    assert seen[0] == seen[1]
    assert len({stream.number for name, stream, _ in streams.launched if "svd" in name}) == 2 * (1 + 3)
