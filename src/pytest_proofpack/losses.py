"""Windows to per-window losses: the only forward pass that measures a model.

At a vocabulary of 150,000 the logits of one batch in float32 would take gigabytes. So the body of the model runs on
a batch, and the output head and the cross entropy on a few hundred positions at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import log_softmax, nll_loss
from transformers import PreTrainedModel

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.records import WindowLosses

Observer = Callable[[Tensor, Tensor, int], None]
"""Called with float32 log-probabilities, shaped (positions, vocabulary), the token ids that came there, shaped
(positions,), and the number of the first position among all scored positions of all windows, window after window. The
tensors must not be kept or changed. They are what the loss is computed from, so watching costs no second softmax."""

CHUNK_POSITIONS = 512
"""Positions whose logits exist at one time: enough to keep a matrix product busy, few enough for any vocabulary."""

_BATCH_TOKENS = {"cpu": 1024, "cuda": 8192}
_PROBE_TOKENS = 8

_Map = Callable[[Tensor], Tensor]


def default_batch_size(seq_len: int, device: torch.device | str) -> int:
    """Return how many windows of ``seq_len`` tokens make a good batch: few on a CPU, to stay in its caches."""
    return max(1, _BATCH_TOKENS.get(torch.device(device).type, 1024) // seq_len)


def window_losses(
    model: PreTrainedModel,
    windows: NDArray[np.integer],
    *,
    batch_size: int,
    observer: Observer | None = None,
) -> NDArray[np.float64]:
    """Return the mean negative log-likelihood of every window, in nats per scored token, shaped (windows,).

    In a window of ``seq_len`` tokens each one after the first is scored, given those before it. Logits are computed
    in the model's dtype, the cross entropy in float32, the mean in float64. Loss that is not finite is returned as it
    is. The result depends on ``batch_size`` only through the rounding of matrix products.

    Args:
        model: in evaluation mode.
        windows: token ids, shaped (windows, seq_len).
        batch_size: windows per forward pass of the body.
        observer: is shown all log-probabilities as they come by; the losses are the same with and without it.

    Raises:
        EvaluationError: the windows don't suit the model, it is in training mode, or its forward pass fails.
    """
    embedding = _embedding(model)
    _require_suitable(model, windows, len(embedding))
    losses = np.empty(len(windows), dtype=np.float64)
    position = 0
    try:
        with torch.inference_mode():
            body, head, batch = _body_and_head(model, _to_tensor(windows[:1], embedding.device), batch_size)
            for start in range(0, len(windows), batch):
                ids = _to_tensor(windows[start : start + batch], embedding.device)
                parts = []
                for logits, targets in _chunks(body, head, ids):
                    log_probs = log_softmax(logits, dim=-1)
                    parts.append(nll_loss(log_probs, targets, reduction="none"))
                    if observer is not None:
                        observer(log_probs, targets, position)
                    position += len(targets)
                nll = torch.cat(parts).view(len(ids), -1).cpu()
                losses[start : start + batch] = nll.double().mean(dim=1).numpy()
    except (RuntimeError, ValueError, IndexError) as error:
        raise EvaluationError(
            f"{model.name_or_path or type(model).__name__}: the forward pass on {batch_size} windows of "
            f"{windows.shape[1]} tokens failed ({type(error).__name__}: {error}). If memory ran out, use shorter "
            "windows or a larger device; otherwise the model does not compute."
        ) from error
    return losses


def record_losses(
    model: PreTrainedModel,
    windows: NDArray[np.integer],
    ids: Sequence[str],
    *,
    batch_size: int,
    observer: Observer | None = None,
) -> WindowLosses:
    """Measure windows and join their losses with their ids; see :func:`window_losses`.

    Raises:
        EvaluationError: as :func:`window_losses`.
    """
    losses = window_losses(model, windows, batch_size=batch_size, observer=observer)
    counts = (windows.shape[1] - 1,) * len(windows)
    return WindowLosses(ids=tuple(ids), losses=tuple(losses.tolist()), token_counts=counts)


def _require_suitable(model: PreTrainedModel, windows: NDArray[np.integer], vocabulary: int) -> None:
    """Refuse what would give wrong numbers, or on a GPU an assertion that takes the whole process down."""
    name = model.name_or_path or type(model).__name__
    if windows.ndim != 2 or windows.shape[1] < 2 or len(windows) == 0:
        raise EvaluationError(f"{name}: windows of shape {windows.shape} hold no token to score. Supply more text.")
    if windows.min() < 0 or windows.max() >= vocabulary:
        raise EvaluationError(
            f"{name}: the windows hold token ids from {windows.min()} to {windows.max()}, but the model embeds only "
            f"0 to {vocabulary - 1}. Use the model's own tokenizer."
        )
    if model.training:
        raise EvaluationError(f"{name}: is in training mode, where dropout makes losses random. Call model.eval().")


def _embedding(model: PreTrainedModel) -> Tensor:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def _to_tensor(windows: NDArray[np.integer], device: torch.device) -> Tensor:
    return torch.from_numpy(windows.astype(np.int64)).to(device)


def _body_and_head(model: PreTrainedModel, window: Tensor, batch_size: int) -> tuple[_Map, _Map, int]:
    """Split a model into token ids -> hidden states and hidden states -> logits, if that is all it does.

    Some models change the logits after the head: Gemma 2 caps them, Cohere and Granite scale them. So the split is
    tried on a few tokens and used only if it gives the model's own logits, bit for bit. Otherwise the whole model is
    the body, with nothing left for the head to do, and batches are small enough for their logits.

    Returns:
        body, head, and the number of windows that the body should be given at a time.
    """
    probe = window[:, :_PROBE_TOKENS]
    base: nn.Module = model.base_model
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]

    def hidden_states(ids: Tensor) -> Tensor:
        states: Tensor = base(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def all_logits(ids: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits

    if head is not None and base is not model:
        split, whole = head(hidden_states(probe)), all_logits(probe)
        if split.shape == whole.shape and torch.equal(_comparable(split), _comparable(whole)):
            return hidden_states, head, batch_size
    return all_logits, lambda logits: logits, max(1, min(batch_size, CHUNK_POSITIONS // window.shape[1]))


def _comparable(logits: Tensor) -> Tensor:
    """Return logits such that NaN equals NaN: a broken model is measured the same way as a sound one."""
    return logits.float().nan_to_num(nan=torch.pi)


def _chunks(body: _Map, head: _Map, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float32 logits and their targets for all scored positions of a batch, window after window, in chunks."""
    states = body(ids)[:, :-1].flatten(0, 1)
    targets = ids[:, 1:].flatten().to(states.device)
    for start in range(0, len(targets), CHUNK_POSITIONS):
        logits = head(states[start : start + CHUNK_POSITIONS]).float()
        yield logits, targets[start : start + CHUNK_POSITIONS].to(logits.device)
