"""The passes of a sample give what measuring each of them gives, and no device waits between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from pytest_proofpack.engine import passes
from pytest_proofpack.engine.passes import calibration_losses, sample_losses
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.forward import BatchSize, launch_recorded, window_losses
from pytest_proofpack.plan.records import WindowLosses
from pytest_proofpack.text.windows import SampledWindows
from tests.support.small_models import VOCABULARY, small_model

TOKENS = np.random.default_rng(0).integers(VOCABULARY, size=(10, 24))
SAMPLE = SampledWindows(TOKENS[:5], TOKENS[5:], tuple("abcde"), tuple("fghij"), seed=0)


def test_preview_and_final_windows_are_measured_with_the_calibration_windows_in_a_batch_of_their_own() -> None:
    model, scored = small_model("gpt2"), []

    def observe(_log_probs: Tensor, targets: Tensor, _position: int) -> None:
        scored.extend(targets.tolist())

    found = sample_losses(model, SAMPLE, BatchSize(4), 2, observer=observe)
    parts = window_losses(model, TOKENS[:2], batch_size=2), window_losses(model, TOKENS[2:5], batch_size=4)
    assert found.preview.losses == tuple(np.concatenate(parts))
    assert found.final.losses == tuple(window_losses(model, TOKENS[5:], batch_size=4))
    assert (found.preview.ids, found.final.ids) == (SAMPLE.preview_ids, SAMPLE.final_ids)
    assert scored == TOKENS[5:, 1:].flatten().tolist()
    again = calibration_losses(model, SAMPLE, BatchSize(4), 2)
    assert (again.losses, again.ids) == (found.preview.losses[:2], ("a", "b"))


def test_a_preview_that_is_watched_whole_has_no_second_pass() -> None:
    found = sample_losses(small_model("gpt2"), SAMPLE, BatchSize(8), 5)
    assert found.preview.losses == tuple(window_losses(small_model("gpt2"), TOKENS[:5], batch_size=5))


def test_every_pass_is_launched_before_any_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def launch(model: Any, windows: Any, ids: tuple[str, ...], **more: Any) -> Callable[[], WindowLosses]:
        name = "".join(ids)
        done.append(f"launch {name}")
        fetch = launch_recorded(model, windows, ids, **more)

        def wait() -> WindowLosses:
            done.append(f"wait {name}")
            return fetch()

        return wait

    @contextlib.contextmanager
    def watching() -> Iterator[None]:
        yield
        done.append("watched")

    monkeypatch.setattr(passes, "launch_recorded", launch)
    sample_losses(small_model("gpt2"), SAMPLE, BatchSize(4), 2, watching=watching())
    assert done == ["launch ab", "watched", "launch cde", "launch fghij", "wait ab", "wait cde", "wait fghij"]


def test_a_pass_that_fails_says_so_when_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = launch_recorded(small_model("gpt2"), TOKENS[:2], ["a", "b"], batch_size=2)

    def failing(_losses: list[Tensor]) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("torch.cat", failing)
    with pytest.raises(EvaluationError, match=r"the forward pass on 2 windows of 24 tokens failed .*illegal memory"):
        fetch()
