"""Next-token distributions of two models, compared as the losses are computed.

Both classes are observers of :func:`pytest_proofpack.models.forward.window_losses`. One keeps the top of the unedited
model's log-probabilities, the other compares an edited model with it and keeps three numbers per token. Neither waits
for the device before the end, and neither computes a softmax of its own.

Example::

    baseline = BaselineDistribution(model_cache_plan(model, windows))
    window_losses(model, windows, batch_size=8, observer=baseline)
    cache = baseline.cache()
    with edited(model, layout, edit, seed=0):
        subject = SubjectDistribution(cache)
        window_losses(model, windows, batch_size=8, observer=subject)
    evidence = distribution_evidence(subject.facts())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.distribution import CACHE_BYTES, CachePlan, DistributionFacts, id_bytes, plan_cache
from pytest_proofpack.models.pipeline import on_common_stream

Windows = NDArray[np.integer]
Arrays = Mapping[str, NDArray[Any]]

_TAIL_FLOOR = 1e-6
"""Below this, the mass left over by the top k is rounding. Both models' tails are held at it in the logarithm, which
can lift a token's KL by at most 1e-6 / e."""

_PREFIX = "distribution."
_ID_TYPES = {2: torch.int16, 4: torch.int32}
_NO_CHOICE = -1


def model_cache_plan(model: PreTrainedModel, windows: Windows, bytes_limit: int = CACHE_BYTES) -> CachePlan:
    """Return the plan of the cache for a model's final windows, token ids of shape (windows, seq_len).

    Raises:
        ConfigurationError: as :func:`pytest_proofpack.guards.distribution.plan_cache`.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    vocabulary = model.config.get_text_config().vocab_size if head is None else len(head.weight)
    return plan_cache(len(windows), windows.shape[1] - 1, vocabulary, bytes_limit)


@dataclass(frozen=True)
class DistributionCache:
    """The top of the baseline's distributions on one draw's final windows, in host memory.

    Attributes:
        plan: what is kept.
        log_probs: the largest log-probabilities per token, float32, shape (tokens, top_k).
        token_ids: the tokens that have them, int16 or int32, same shape.
        choices: the most probable token, of several the one with the lowest id, int32, shape (tokens,).
    """

    plan: CachePlan
    log_probs: Tensor
    token_ids: Tensor
    choices: Tensor

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays under the names they have in a safetensors file, where they can lie beside others."""
        return {_PREFIX + name: getattr(self, name).numpy() for name in ("log_probs", "token_ids", "choices")}

    @classmethod
    def from_arrays(cls, arrays: Arrays, plan: CachePlan) -> DistributionCache:
        """Return the cache that :meth:`to_arrays` wrote.

        Raises:
            EvaluationError: an array is absent, or has not the shape and type of the plan.
        """
        empty = _empty_cache(plan, torch.device("meta"))
        found: dict[str, Tensor] = {}
        for name, expected in empty.items():
            array = arrays.get(_PREFIX + name)
            tensor = None if array is None else torch.from_numpy(array)
            if tensor is None or (tensor.shape, tensor.dtype) != (expected.shape, expected.dtype):
                raise EvaluationError(
                    f"the stored distribution of the baseline lacks {_PREFIX}{name} with shape {tuple(expected.shape)} "
                    f"and type {expected.dtype}: it is of another model or other windows. Use a new run directory."
                )
            found[name] = tensor
        return cls(plan, **found)


def _empty_cache(plan: CachePlan, device: torch.device) -> dict[str, Tensor]:
    shape = (plan.tokens, plan.top_k)
    return {
        "log_probs": torch.full(shape, torch.nan, dtype=torch.float32, device=device),
        "token_ids": torch.zeros(shape, dtype=_ID_TYPES[id_bytes(plan.vocabulary)], device=device),
        "choices": torch.zeros(plan.tokens, dtype=torch.int32, device=device),
    }


class BaselineDistribution:
    """An observer that keeps the top of the baseline's log-probabilities on the device, as planned."""

    def __init__(self, plan: CachePlan) -> None:
        self._plan = plan
        self._kept: dict[str, Tensor] = {}

    def __call__(self, log_probs: Tensor, _targets: Tensor, position: int) -> None:
        """Keep one chunk; see :data:`pytest_proofpack.models.forward.Observer`.

        Raises:
            EvaluationError: the logits have not the vocabulary of the plan.
        """
        plan = self._plan
        if log_probs.shape[1] != plan.vocabulary:
            raise EvaluationError(
                f"the baseline computes logits for {log_probs.shape[1]} tokens, its output embeddings have "
                f"{plan.vocabulary}. Its distribution cannot be recorded; check the checkpoint's vocabulary."
            )
        log_probs = log_probs[: max(0, plan.tokens - position)]
        if not self._kept:
            with on_common_stream(log_probs.device):
                self._kept = _empty_cache(plan, log_probs.device)
        rows = slice(position, position + len(log_probs))
        values, ids = log_probs.topk(plan.top_k, dim=-1)
        self._kept["log_probs"][rows] = values
        self._kept["token_ids"][rows] = ids.to(self._kept["token_ids"].dtype)
        self._kept["choices"][rows] = log_probs.argmax(dim=-1).int()

    def cache(self) -> DistributionCache:
        """Return what was kept, in host memory.

        Raises:
            EvaluationError: the windows shown are fewer than planned, or hold log-probabilities that are no numbers.
        """
        kept = {name: tensor.cpu() for name, tensor in self._kept.items()}
        if not kept or bool(kept["log_probs"].isnan().any()):
            raise EvaluationError(
                "the baseline's next-token distributions are incomplete or not finite, so nothing can be compared "
                "with them. Check the checkpoint for NaN or infinite weights."
            )
        return DistributionCache(self._plan, **kept)


class SubjectDistribution:
    """An observer that compares a subject with the baseline, token by token.

    A subject may have a larger vocabulary than its baseline, whose tokens then have their own probabilities in it.
    With a smaller one, nothing can be compared, and the facts say so.
    """

    def __init__(self, cache: DistributionCache) -> None:
        self._cache = cache
        self._problem: str | None = None
        self._reference: tuple[Tensor, Tensor, Tensor] | None = None
        self._divergence = torch.full((cache.plan.tokens,), torch.nan)
        self._flags = torch.zeros((3, cache.plan.tokens), dtype=torch.bool)

    def __call__(self, log_probs: Tensor, targets: Tensor, position: int) -> None:
        """Compare one chunk, as an ``Observer`` of forward passes. Never raises for what a subject holds."""
        plan = self._cache.plan
        if log_probs.shape[1] < plan.vocabulary:
            self._problem = "vocabulary_smaller"
            return
        log_probs = log_probs[: max(0, plan.tokens - position)]
        rows, targets = slice(position, position + len(log_probs)), targets[: len(log_probs)]
        baseline, ids, before = (tensor[rows] for tensor in self._on(log_probs.device))
        self._divergence[rows] = bucketed_divergence(baseline, log_probs.gather(1, ids.long()))
        # A row with one NaN is NaN throughout: log-softmax spreads it.
        after = torch.where(log_probs[:, 0].isnan(), _NO_CHOICE, log_probs.argmax(dim=-1))
        self._flags[:, rows] = torch.stack((before == after, before == targets, after == targets))

    def facts(self) -> DistributionFacts:
        """Reduce what was compared to counts and means per window."""
        plan = self._cache.plan
        divergence = self._divergence.cpu().numpy().astype(np.float64)
        agreed, before, after = self._flags.cpu().numpy().reshape(3, plan.windows, plan.scored)
        finite = bool(np.isfinite(divergence).all())
        problem = self._problem or ("not_measured" if self._reference is None else None)
        return DistributionFacts(
            plan=plan,
            kl_mean=divergence.reshape(plan.windows, plan.scored).mean(axis=1).tolist(),
            agreed=_per_window(agreed),
            baseline_right=_per_window(before),
            right_to_wrong=_per_window(before & ~after),
            wrong_to_right=_per_window(after & ~before),
            kl_q99=float(np.quantile(divergence, 0.99)) if finite else np.nan,
            kl_max=float(divergence.max()) if finite else np.nan,
            problem=problem,
        )

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cache on the subject's device, where results are kept too; copied there once."""
        if self._reference is None:
            cache = self._cache
            with on_common_stream(device):
                self._reference = (cache.log_probs.to(device), cache.token_ids.to(device), cache.choices.to(device))
                self._divergence, self._flags = self._divergence.to(device), self._flags.to(device)
        return self._reference


def bucketed_divergence(baseline: Tensor, subject: Tensor) -> Tensor:
    """Return KL(baseline || subject) per row, all tokens that are not among the columns joined to one.

    A lower bound of the KL over the whole vocabulary, by the log-sum inequality. Tokens that the baseline rules out
    (log-probability of minus infinity) add nothing.

    Args:
        baseline: log-probabilities of distinct tokens, float32, shape (rows, k).
        subject: those of the same tokens.

    Returns:
        Nats, shape (rows,); NaN or infinite where the subject's are not finite.
    """
    probabilities = baseline.exp()
    terms = torch.where(probabilities > 0, probabilities * (baseline - subject), 0.0)
    rest = (1.0 - probabilities.sum(dim=1)).clamp(min=0.0)
    left = (1.0 - subject.exp().sum(dim=1)).clamp(min=_TAIL_FLOOR)
    return terms.sum(dim=1) + rest * (rest.clamp(min=_TAIL_FLOOR).log() - left.log())


def _per_window(flags: NDArray[np.bool_]) -> list[int]:
    counts: list[int] = flags.sum(axis=1).tolist()
    return counts
