"""Losses equal the textbook computation for every architecture, without logits of a whole batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import log_softmax
from transformers import (
    Cohere2Config,
    Gemma2Config,
    GraniteConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models import forward as losses
from pytest_proofpack.models.forward import BatchSize, Split, default_batch_size, launch_recorded, window_losses
from tests.support.fake_devices import spread, two_devices
from tests.support.small_models import ARCHITECTURES, VOCABULARY, small_model

WINDOWS = np.random.default_rng(0).integers(VOCABULARY, size=(5, 24))

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}
CHANGED_LOGITS = {
    "soft-capped": Gemma2Config(**_SIZES, head_dim=8, final_logit_softcapping=0.5),
    "multiplied": Cohere2Config(**_SIZES, logit_scale=0.25),
    "divided": GraniteConfig(**_SIZES, logits_scaling=3.0),
}
PROJECTED = OPTConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    word_embed_proj_dim=16,
    ffn_dim=48,
    num_hidden_layers=2,
    num_attention_heads=4,
)


def build(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.train(mode=False)
    return model


def reference(model: PreTrainedModel, windows: np.ndarray = WINDOWS) -> list[float]:
    """One window at a time, whole logits, log-probabilities in float64."""
    result = []
    for window in torch.from_numpy(windows):
        with torch.no_grad():
            logits = model(window[None], use_cache=False).logits[0, :-1]
        taken = log_softmax(logits.double(), dim=-1).gather(1, window[1:, None])
        result.append(-taken.mean().item())
    return result


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_reference(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(architecture)
    expected = reference(model)
    assert np.ptp(expected) > 0.01
    assert window_losses(model, WINDOWS, batch_size=2) == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(losses, "CHUNK_POSITIONS", 7)
    assert window_losses(model, WINDOWS, batch_size=5) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", CHANGED_LOGITS)
def test_logits_changed_after_the_head(kind: str) -> None:
    model, size = build(CHANGED_LOGITS[kind]), BatchSize(4)
    assert window_losses(model, WINDOWS, batch_size=size) == pytest.approx(reference(model), abs=1e-5)
    assert size.splits[model] is Split.STEPS
    with torch.no_grad():  # the body is its own again
        assert model(torch.from_numpy(WINDOWS)).logits.shape == (*WINDOWS.shape, VOCABULARY)


class ContextLogits(transformers.LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """A model that looks at whole windows after its body: its logits are centred over all positions."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        return type(output)(logits=output.logits - output.logits.mean(dim=1, keepdim=True))


def test_embeddings_narrower_than_hidden_states() -> None:
    model = build(PROJECTED)
    assert window_losses(model, WINDOWS, batch_size=4) == pytest.approx(reference(model), abs=1e-5)


def shapes_of_logits(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """Measure with the largest batch; return the shapes of what the head gave out."""
    head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    shapes: list[tuple[int, ...]] = []
    handle = head.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    window_losses(model, WINDOWS, batch_size=5)
    handle.remove()
    return shapes


def test_logits_exist_for_few_positions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_POSITIONS", 48)
    positions = [np.prod(shape[:-1]) for shape in shapes_of_logits(small_model("llama"))]
    assert positions[-3:] == [48, 48, 19]
    positions = [np.prod(shape[:-1]) for shape in shapes_of_logits(build(CHANGED_LOGITS["soft-capped"]))]
    assert positions[-3:] == [48, 48, 19]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("split", Split)
def test_no_step_mixes_the_devices_of_a_model_that_lies_on_two(architecture: str, split: Split) -> None:
    model = small_model(architecture, dtype=torch.bfloat16)
    with two_devices() as devices:
        spread(model, *devices)
        tokens = losses._Tokens(WINDOWS, devices[0])
        body, head = losses._body_and_head(model, split)
        shown: list[torch.device] = []
        found = losses._batch_losses(
            body, head, tokens, slice(1, 3), lambda *seen: shown.extend(one.device for one in seen[:2])
        )
        assert found.shape == (2, 23)
        assert len(set(shown)) == 1


def test_where_nothing_divides_the_batch_is_made_small_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_POSITIONS", 48)
    model = ContextLogits(transformers.LlamaConfig(**_SIZES))
    model.train(mode=False)
    assert shapes_of_logits(model)[-3:] == [(2, 24, 128), (2, 24, 128), (1, 24, 128)]  # two windows of 24
    assert window_losses(model, WINDOWS, batch_size=4) == pytest.approx(reference(model), abs=1e-5)


def test_bfloat16_logits_are_scored_in_float32() -> None:
    model = small_model("llama", dtype=torch.bfloat16)
    assert window_losses(model, WINDOWS, batch_size=1) == pytest.approx(reference(model), abs=1e-5)


def test_repeats_bit_for_bit() -> None:
    model = small_model("mixtral")
    assert (window_losses(model, WINDOWS, batch_size=2) == window_losses(model, WINDOWS, batch_size=2)).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_returned(value: float) -> None:
    model = small_model("llama")
    unused = next(token for token in range(VOCABULARY) if token not in WINDOWS[:4])
    windows = np.concatenate([WINDOWS[:4], np.full((1, 24), unused)])
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    embedding.data[unused] = value
    result = window_losses(model, windows, batch_size=2)
    assert np.isfinite(result[:4]).all()
    assert not np.isfinite(result[4])


def test_an_observer_sees_all_log_probabilities_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_POSITIONS", 10)
    model = small_model("qwen2")
    seen = torch.full((5 * 23, VOCABULARY), float("nan"))

    came = torch.full((5 * 23,), -1)

    def observe(log_probs: torch.Tensor, targets: torch.Tensor, position: int) -> None:
        seen[position : position + len(targets)] = log_probs
        came[position : position + len(targets)] = targets

    watched = window_losses(model, WINDOWS, batch_size=2, observer=observe)
    assert (watched == window_losses(model, WINDOWS, batch_size=2)).all()
    with torch.no_grad():
        expected = log_softmax(model(torch.from_numpy(WINDOWS)).logits[:, :-1].flatten(0, 1), dim=-1)
    assert came.tolist() == WINDOWS[:, 1:].flatten().tolist()
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)


def test_records_join_ids_losses_and_counts() -> None:
    model = small_model("gpt2")
    record = launch_recorded(model, WINDOWS, ["a", "b", "c", "d", "e"], batch_size=2)()
    assert record.ids == ("a", "b", "c", "d", "e")
    assert record.losses == tuple(window_losses(model, WINDOWS, batch_size=2))
    assert all(type(loss) is float for loss in record.losses)
    assert record.token_counts == (23,) * 5


def test_unsuitable_calls_are_refused() -> None:
    model = small_model("gpt2")
    with pytest.raises(EvaluationError, match=rf"ids from 0 to {VOCABULARY}.*only 0 to {VOCABULARY - 1}"):
        window_losses(model, np.array([[0, VOCABULARY]]), batch_size=1)
    with pytest.raises(EvaluationError, match="no token to score"):
        window_losses(model, np.zeros((3, 1), dtype=int), batch_size=1)
    with pytest.raises(EvaluationError, match="forward pass on 1 windows of 257 tokens failed"):
        window_losses(model, np.zeros((1, 257), dtype=int), batch_size=1)
    model.train()
    with pytest.raises(EvaluationError, match="training mode"):
        window_losses(model, WINDOWS, batch_size=1)


def test_default_batches_hold_whole_windows() -> None:
    assert default_batch_size(128, "cpu") == 8
    assert default_batch_size(512, "cuda:1") == 16
    assert default_batch_size(100_000, "cpu") == 1


class ScarceMemory:
    """A hook that lets a device run out of memory on batches above a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.batches: list[int] = []

    def __call__(self, _module: torch.nn.Module, _args: Any, arguments: dict[str, Any]) -> None:
        count = len(arguments["input_ids"])
        self.batches.append(count)
        if count > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_when_memory_runs_out_the_batch_is_halved_and_no_window_is_lost() -> None:
    model = small_model("llama")
    expected = window_losses(model, WINDOWS, batch_size=1)
    memory, size = ScarceMemory(1), BatchSize(4)
    seen: list[int] = []
    handle = model.base_model.register_forward_pre_hook(memory, with_kwargs=True)
    losses = window_losses(model, WINDOWS, batch_size=size, observer=lambda *shown: seen.append(shown[2]))
    again = window_losses(model, WINDOWS, batch_size=size)
    handle.remove()
    assert losses == pytest.approx(expected, abs=1e-6)
    assert (losses == again).all()
    assert (size.windows, size.halvings) == (1, 2)
    assert sorted(seen) == [index * (WINDOWS.shape[1] - 1) for index in range(len(WINDOWS))]
    assert memory.batches.count(4) == 1  # the second pass starts with what fits


def test_a_single_window_that_does_not_fit_is_an_error_that_says_so() -> None:
    model = small_model("llama")
    size = BatchSize(2)
    model.base_model.register_forward_pre_hook(ScarceMemory(0), with_kwargs=True)
    size.splits[model] = Split.HEAD
    with pytest.raises(EvaluationError, match=r"on 1 windows .*memory of the device ran out.*Use a larger device"):
        window_losses(model, WINDOWS, batch_size=size)
