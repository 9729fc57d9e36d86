"""The distributions of two models, against the KL over the whole vocabulary in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.distribution import (
    CachePlan,
    DistributionFacts,
    derive_distribution,
    distribution_evidence,
)
from pytest_proofpack.measures.distribution import (
    BaselineDistribution,
    DistributionCache,
    SubjectDistribution,
    bucketed_divergence,
    model_cache_plan,
)
from pytest_proofpack.models import forward as losses
from pytest_proofpack.models.forward import window_losses
from tests.support.small_models import VOCABULARY, small_model

WINDOWS = np.random.default_rng(0).integers(VOCABULARY, size=(6, 20))
SCORED = 19


def recorded(model: PreTrainedModel, plan: CachePlan | None = None, batch_size: int = 2) -> DistributionCache:
    observer = BaselineDistribution(plan or model_cache_plan(model, WINDOWS))
    window_losses(model, WINDOWS, batch_size=batch_size, observer=observer)
    return observer.cache()


def compared(cache: DistributionCache, model: PreTrainedModel, batch_size: int = 2) -> DistributionFacts:
    observer = SubjectDistribution(cache)
    window_losses(model, WINDOWS, batch_size=batch_size, observer=observer)
    return observer.facts()


def log_probabilities(model: PreTrainedModel) -> Tensor:
    """The reference: float64, shape (windows, scored, vocabulary)."""
    with torch.no_grad():
        logits = model(torch.from_numpy(WINDOWS), use_cache=False).logits[:, :-1]
    return log_softmax(logits.double(), dim=-1)


def divergences(baseline: PreTrainedModel, subject: PreTrainedModel) -> Tensor:
    before, after = log_probabilities(baseline), log_probabilities(subject)
    return (before.exp() * (before - after)).sum(dim=-1)


@contextmanager
def changed(model: PreTrainedModel, change: Callable[[Tensor], Any]) -> Iterator[PreTrainedModel]:
    """Change the output embeddings for the length of the body."""
    weight = model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    kept = weight.detach().clone()
    with torch.no_grad():
        change(weight)
    yield model
    with torch.no_grad():
        weight.copy_(kept)


def full_plan(model: PreTrainedModel) -> CachePlan:
    return replace(model_cache_plan(model, WINDOWS), top_k=VOCABULARY)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_exact_where_the_whole_vocabulary_is_kept(architecture: str) -> None:
    baseline, subject = small_model(architecture), small_model(architecture, seed=1)
    exact = divergences(baseline, subject)
    facts = compared(recorded(baseline, full_plan(baseline)), subject)
    assert facts.kl_mean == pytest.approx(exact.mean(dim=1).tolist(), rel=1e-4, abs=1e-6)
    assert facts.kl_max == pytest.approx(exact.max().item(), rel=1e-4)
    assert facts.kl_q99 == pytest.approx(np.quantile(exact.numpy(), 0.99), rel=1e-4)


@pytest.mark.parametrize("top_k", [1, 16, 64])
def test_a_lower_bound_where_less_is_kept(top_k: int) -> None:
    # Logits as peaked as those of a trained model, so that the top holds most of the mass.
    baseline, subject = small_model("llama"), small_model("llama", seed=1)
    for model in (baseline, subject):
        model.get_output_embeddings().weight.data.mul_(4)  # type: ignore[no-untyped-call]
    exact = divergences(baseline, subject).mean(dim=1).numpy()
    facts = compared(recorded(baseline, replace(full_plan(baseline), top_k=top_k)), subject)
    bound = np.asarray(facts.kl_mean)
    assert (bound <= exact + 1e-6).all()
    assert (bound > 0.0).all()
    if top_k == 64:
        assert (bound > 0.9 * exact).all()


def test_one_bucket_is_the_textbooks_two_outcome_divergence() -> None:
    baseline, subject = torch.tensor([[0.9]]), torch.tensor([[0.6]])
    expected = 0.9 * np.log(0.9 / 0.6) + 0.1 * np.log(0.1 / 0.4)
    assert bucketed_divergence(baseline.log(), subject.log()).item() == pytest.approx(expected, rel=1e-5)


def test_what_the_baseline_rules_out_adds_nothing() -> None:
    impossible = -torch.inf
    baseline = torch.tensor([[0.5, 0.5, 0.0]]).log()
    for masked in (impossible, -3.0):
        subject = torch.tensor([[np.log(0.5), np.log(0.5), masked]])
        assert bucketed_divergence(baseline, subject).item() == pytest.approx(0.0, abs=1e-6)
    ruled_out = torch.tensor([[0.0, impossible, impossible]])
    assert bucketed_divergence(baseline, ruled_out).item() == torch.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_model_agrees_with_itself(dtype: torch.dtype) -> None:
    model = small_model("qwen2", dtype=dtype)
    facts = compared(recorded(model), model)
    assert np.abs(facts.kl_mean).max() <= 1e-6
    assert abs(facts.kl_max) <= 1e-6
    assert list(facts.agreed) == [SCORED] * 6
    assert not any([*facts.right_to_wrong, *facts.wrong_to_right])


def test_agreement_and_flips_are_those_of_the_choices() -> None:
    generator = np.random.default_rng(0)
    before, after = (log_softmax(torch.from_numpy(generator.normal(size=(30, 4))).float(), dim=-1) for _ in range(2))
    came = generator.integers(4, size=30)
    recorder = BaselineDistribution(CachePlan(3, 10, 4, 4))
    recorder(before, torch.from_numpy(came), 0)
    observer = SubjectDistribution(recorder.cache())
    observer(after, torch.from_numpy(came), 0)
    facts = observer.facts()

    def per_window(flags: np.ndarray) -> list[int]:
        counts: list[int] = flags.reshape(3, 10).sum(axis=1).tolist()
        assert sum(counts) > 0
        return counts

    first, second = before.numpy().argmax(axis=1), after.numpy().argmax(axis=1)
    assert facts.agreed == per_window(first == second)
    assert facts.baseline_right == per_window(first == came)
    assert facts.right_to_wrong == per_window((first == came) & (second != came))
    assert facts.wrong_to_right == per_window((first != came) & (second == came))


def test_of_tied_tokens_the_first_is_the_choice() -> None:
    tied = torch.log(torch.tensor([[0.1, 0.3, 0.3, 0.3]]))
    recorder = BaselineDistribution(CachePlan(1, 1, 2, 4))
    recorder(tied, torch.tensor([1]), 0)
    observer = SubjectDistribution(recorder.cache())
    observer(tied, torch.tensor([1]), 0)
    facts = observer.facts()
    assert (facts.agreed, facts.baseline_right, facts.right_to_wrong) == ([1], [1], [0])


def test_chunks_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, subject = small_model("mixtral"), small_model("mixtral", seed=1)
    whole = compared(recorded(baseline, batch_size=6), subject, batch_size=6)
    monkeypatch.setattr(losses, "CHUNK_POSITIONS", 7)
    pieces = compared(recorded(baseline, batch_size=4), subject, batch_size=1)
    assert pieces.kl_mean == pytest.approx(whole.kl_mean, rel=1e-4)
    assert (pieces.agreed, pieces.right_to_wrong) == (whole.agreed, whole.right_to_wrong)


def test_watching_leaves_the_losses_as_they_are() -> None:
    model = small_model("gpt2", dtype=torch.bfloat16)
    plain = window_losses(model, WINDOWS, batch_size=2)
    recorder = BaselineDistribution(model_cache_plan(model, WINDOWS))
    assert (window_losses(model, WINDOWS, batch_size=2, observer=recorder) == plain).all()
    comparison = SubjectDistribution(recorder.cache())
    assert (window_losses(model, WINDOWS, batch_size=2, observer=comparison) == plain).all()


def test_only_the_planned_windows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_POSITIONS", 25)
    baseline, subject = small_model("llama"), small_model("llama", seed=1)
    whole = compared(recorded(baseline), subject)
    plan = replace(model_cache_plan(baseline, WINDOWS), windows=3)
    part = compared(recorded(baseline, plan), subject)
    assert (part.kl_mean, part.agreed) == (whole.kl_mean[:3], whole.agreed[:3])


@pytest.mark.parametrize(("vocabulary", "dtype"), [(VOCABULARY, np.int16), (40_000, np.int32)])
def test_survives_a_file_and_takes_the_planned_space(vocabulary: int, dtype: type) -> None:
    baseline, subject = (small_model("llama", seed=seed, vocab_size=vocabulary) for seed in (0, 1))
    cache = recorded(baseline)
    raw = save({**cache.to_arrays(), "final": np.zeros(6)})
    arrays = load(raw)
    assert arrays["distribution.token_ids"].dtype == dtype
    assert sum(array.nbytes for name, array in arrays.items() if name != "final") == cache.plan.bytes
    assert compared(DistributionCache.from_arrays(arrays, cache.plan), subject) == compared(cache, subject)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("distribution.log_probs", None),
        ("distribution.token_ids", np.zeros((6 * SCORED, 64), dtype=np.int64)),
        ("distribution.choices", np.zeros(5, dtype=np.int32)),
    ],
)
def test_a_file_of_something_else_is_refused(name: str, array: np.ndarray | None) -> None:
    cache = recorded(small_model("llama"))
    arrays = {**cache.to_arrays(), name: array}
    with pytest.raises(EvaluationError, match=rf"lacks {name} with shape"):
        DistributionCache.from_arrays({key: value for key, value in arrays.items() if value is not None}, cache.plan)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_subject_that_is_not_finite_is_recorded_as_invalid(value: float) -> None:
    model = small_model("llama")
    cache = recorded(model)
    rare = next(token for token in range(VOCABULARY) if token not in WINDOWS[:4] and token in WINDOWS[4:])
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, Tensor)
    embedding.data[rare] = value
    facts = compared(cache, model)
    broken = [rare in window for window in WINDOWS]
    assert [bool(np.isnan(kl)) for kl in facts.kl_mean] == broken
    assert [agreed < SCORED for agreed in facts.agreed] == broken
    assert facts.problem is None
    derived = judged(facts)
    assert (derived["passed"], derived["invalid_reason"]) == (False, "non_finite")


def test_a_subject_that_has_no_finite_number_chooses_nothing() -> None:
    model = small_model("llama")
    cache = recorded(model)
    with changed(model, lambda weight: weight.fill_(torch.nan)):
        facts = compared(cache, model)
    assert list(facts.agreed) == [0] * 6
    assert facts.right_to_wrong == facts.baseline_right
    assert judged(facts)["subject_accuracy"] == 0.0


@pytest.mark.parametrize(("size", "reason"), [(VOCABULARY + 8, None), (VOCABULARY // 2, "vocabulary_smaller")])
def test_another_vocabulary(size: int, reason: str | None) -> None:
    model = small_model("llama")
    cache = recorded(model)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        resized = torch.zeros(size, head.weight.shape[1])
        resized[:VOCABULARY] = head.weight[:size]
        subject = SubjectDistribution(cache)
        states = model.base_model(torch.from_numpy(WINDOWS)).last_hidden_state[:, :-1].flatten(0, 1)
        subject(log_softmax(states @ resized.T, dim=-1), torch.from_numpy(WINDOWS[:, 1:].flatten()), 0)
    derived = judged(subject.facts())
    assert derived["invalid_reason"] == reason
    if reason is None:
        # Eight new tokens took a little of everyone's probability.
        assert 0.0 < derived["kl_mean"] < 0.2


def test_nothing_shown_is_nothing_measured() -> None:
    cache = recorded(small_model("llama"))
    assert judged(SubjectDistribution(cache).facts())["invalid_reason"] == "not_measured"
    with pytest.raises(EvaluationError, match="incomplete"):
        BaselineDistribution(cache.plan).cache()


def test_a_baseline_that_does_not_fit_its_plan_is_refused() -> None:
    model = small_model("llama")
    plan = model_cache_plan(model, WINDOWS)
    with pytest.raises(EvaluationError, match=f"logits for {VOCABULARY} tokens.*have 96"):
        recorded(model, replace(plan, vocabulary=96))
    with changed(model, lambda weight: weight.fill_(torch.nan)), pytest.raises(EvaluationError, match="not finite"):
        recorded(model)


def judged(facts: DistributionFacts) -> dict[str, Any]:
    rules = resolve_policy("balanced").section("distribution")
    return derive_distribution(distribution_evidence(facts), rules, [SCORED] * len(WINDOWS))


@pytest.mark.parametrize("seed", [1, 2])
def test_evidence_of_real_models_is_judged(seed: int) -> None:
    baseline, subject = small_model("llama"), small_model("llama", seed=seed)
    derived = judged(compared(recorded(baseline), subject))
    assert derived["kl_mean"] == pytest.approx(divergences(baseline, subject).mean().item(), rel=0.2)
    assert derived["coverage"] == 1.0
