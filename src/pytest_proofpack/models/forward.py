"""Windows to per-window losses: the only forward pass that measures a model.

At a vocabulary of 150,000 the logits of one batch in float32 would take gigabytes. So the body of the model runs on
a batch, and the output head and the cross entropy on a few hundred positions at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import log_softmax, nll_loss
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from pytest_proofpack.common.shortage import what_ran_out
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.pipeline import on_common_stream, pipelined
from pytest_proofpack.plan.records import WindowLosses

Observer = Callable[[Tensor, Tensor, int], None]
"""Called with float32 log-probabilities, shaped (positions, vocabulary), the token ids that came there, shaped
(positions,), and the number of the first position among all scored positions of all windows, window after window. The
tensors must not be kept or changed. They are what the loss is computed from, so watching costs no second softmax."""

CHUNK_POSITIONS = 512
"""Positions whose logits exist at one time: enough to keep a matrix product busy, few enough for any vocabulary."""

CHUNK_LOGITS = 2**26
"""On an accelerator, chunks hold more positions as long as their logits stay below this number (256 MB)."""

_BATCH_TOKENS = {"cpu": 1024, "cuda": 8192}
_DOES_NOT_COMPUTE = "Check that the installed transformers runs the model on windows of this length."
_PROBE_TOKENS = 8
_ROUNDING = 2**-6
"""Of the largest logit: what a matrix product of another size may differ by, with room, in bfloat16."""

_Map = Callable[[Tensor], Tensor]


class Split(Enum):
    """How a model's logits can be had of a few positions at a time."""

    HEAD = "its output head makes them of the hidden states"
    STEPS = "what the model does after its body makes them of the hidden states"
    NONE = "only of whole windows"


@dataclass
class BatchSize:
    """How many windows share a forward pass; halved for good when a device's memory runs out.

    Attributes:
        windows: windows per forward pass of the body, one or more.
        halvings: how often memory ran out.
        splits: by model, how its forward pass divides. Found out once, because trying it costs a few small forward
            passes; nothing that edits or injected errors do changes it.
        lanes: batches in flight together, of a model over several devices; None for the usual number.
    """

    windows: int
    halvings: int = 0
    splits: WeakKeyDictionary[PreTrainedModel, Split] = field(default_factory=WeakKeyDictionary)
    lanes: int | None = None

    def halve(self) -> bool:
        """Halve the number of windows; False if it is one already."""
        if self.windows == 1:
            return False
        self.windows = -(-self.windows // 2)
        self.halvings += 1
        return True


def default_batch_size(seq_len: int, device: torch.device | str) -> int:
    """Return how many windows of ``seq_len`` tokens make a good batch: few on a CPU, to stay in its caches."""
    return max(1, _BATCH_TOKENS.get(torch.device(device).type, 1024) // seq_len)


def window_losses(
    model: PreTrainedModel,
    windows: NDArray[np.integer],
    *,
    batch_size: int | BatchSize,
    observer: Observer | None = None,
) -> NDArray[np.float64]:
    """Return the mean negative log-likelihood of every window, in nats per scored token, shaped (windows,).

    In a window of ``seq_len`` tokens each one after the first is scored, given those before it. Logits are computed
    in the model's dtype, the cross entropy in float32, the mean in float64. Loss that is not finite is returned as it
    is. The result depends on ``batch_size`` only through the rounding of matrix products.

    Args:
        model: in evaluation mode.
        windows: token ids, shaped (windows, seq_len).
        batch_size: windows per forward pass of the body. Where a :class:`BatchSize` is given, an accelerator that
            runs out of memory halves it, and the pass goes on from the batch that failed.
        observer: is shown all log-probabilities as they come by; the losses are the same with and without it. It
            sees a position again if the batch that holds it is repeated.

    Raises:
        EvaluationError: the windows don't suit the model, it is in training mode, or its forward pass fails.
    """
    return launch_losses(model, windows, batch_size=batch_size, observer=observer)()


def launch_losses(
    model: PreTrainedModel,
    windows: NDArray[np.integer],
    *,
    batch_size: int | BatchSize,
    observer: Observer | None = None,
) -> Callable[[], NDArray[np.float64]]:
    """Launch what :func:`window_losses` computes, and return a function that waits for it.

    Whoever launches the next pass before waiting for this one leaves no device without work between them. Arguments and
    errors are those of :func:`window_losses`; the function that is returned raises the same.
    """
    embedding = _embedding(model)
    _require_suitable(model, windows, len(embedding))
    size = BatchSize(batch_size) if isinstance(batch_size, int) else batch_size
    with _failing(model, windows, size), torch.inference_mode():
        if model not in size.splits:
            probe = _Tokens(windows[:1, :_PROBE_TOKENS], embedding.device).on(embedding.device)
            size.splits[model] = _find_split(model, probe)
        losses = _launch(model, windows, size, observer, may_halve=not isinstance(batch_size, int))

    def fetch() -> NDArray[np.float64]:
        # Fetched together: a device that is waited for after every batch stands idle while the next one starts.
        with _failing(model, windows, size), torch.inference_mode():
            return torch.cat(losses).cpu().double().mean(dim=1).numpy()

    return fetch


@contextlib.contextmanager
def _failing(model: PreTrainedModel, windows: NDArray[np.integer], size: BatchSize) -> Iterator[None]:
    """Say which model failed on which windows."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        raise EvaluationError(
            f"{model.name_or_path or type(model).__name__}: the forward pass on {size.windows} windows of "
            f"{windows.shape[1]} tokens failed{why_it_failed(error)}"
        ) from error


def why_it_failed(error: Exception) -> str:
    """Return how a sentence goes on that says which forward pass failed: what ran out, or else the error."""
    shortage = what_ran_out(error)
    return f": {shortage}" if shortage else f" ({type(error).__name__}: {error}). {_DOES_NOT_COMPUTE}"


def _launch(
    model: PreTrainedModel,
    windows: NDArray[np.integer],
    size: BatchSize,
    observer: Observer | None,
    *,
    may_halve: bool,
) -> list[Tensor]:
    """Return the losses of scored tokens per batch, shaped (windows, seq_len - 1), which devices may still compute."""
    split, tokens = size.splits[model], _Tokens(windows, _embedding(model).device)
    body, head = _body_and_head(model, split)
    most = max(1, CHUNK_POSITIONS // windows.shape[1]) if split is Split.NONE else len(windows)
    losses: list[Tensor] = []
    start = 0
    with pipelined(model, size.lanes) as pipeline:
        while start < len(windows):
            batch = slice(start, min(len(windows), start + min(most, size.windows)))
            try:
                with pipeline.lane():
                    losses.append(_batch_losses(body, head, tokens, batch, observer))
            except torch.OutOfMemoryError:
                if not may_halve or not size.halve():
                    raise
                torch.cuda.empty_cache()
                continue
            start = batch.stop
    return losses


def _batch_losses(body: _Map, head: _Map, tokens: _Tokens, batch: slice, observer: Observer | None) -> Tensor:
    """Return the losses of a batch's scored tokens, float32, shaped (windows, seq_len - 1), on their device.

    Args:
        body: token ids -> hidden states, see :func:`_body_and_head`.
        head: hidden states -> logits.
        tokens: of all windows.
        batch: the windows in question.
        observer: see :data:`Observer`.
    """
    parts = []
    position = batch.start * tokens.scored
    for logits, targets in _chunks(body, head, tokens, batch):
        log_probs = log_softmax(logits, dim=-1)
        parts.append(nll_loss(log_probs, targets, reduction="none"))
        if observer is not None:
            observer(log_probs, targets, position)
        position += len(targets)
    return torch.cat(parts).view(-1, tokens.scored)


def launch_recorded(
    model: PreTrainedModel,
    windows: NDArray[np.integer],
    ids: Sequence[str],
    *,
    batch_size: int | BatchSize,
    observer: Observer | None = None,
) -> Callable[[], WindowLosses]:
    """Launch the measuring of windows; return a function that waits for their losses and joins them with their ids.

    Raises:
        EvaluationError: as :func:`launch_losses`.
    """
    fetch = launch_losses(model, windows, batch_size=batch_size, observer=observer)
    counts = (windows.shape[1] - 1,) * len(windows)
    return lambda: WindowLosses(ids=tuple(ids), losses=tuple(fetch().tolist()), token_counts=counts)


def _require_suitable(model: PreTrainedModel, windows: NDArray[np.integer], vocabulary: int) -> None:
    """Refuse what would give wrong numbers, or on a GPU an assertion that takes the whole process down."""
    name = model.name_or_path or type(model).__name__
    if windows.ndim != 2 or windows.shape[1] < 2 or len(windows) == 0:
        raise EvaluationError(f"{name}: windows of shape {windows.shape} hold no token to score.")
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


class _Tokens:
    """The token ids of some windows, brought to each device once: an upload per batch would wait for the one before.

    Attributes:
        entrance: the device that the model takes them on.
        scored: tokens per window that are scored, all but the first.
    """

    def __init__(self, windows: NDArray[np.integer], entrance: torch.device) -> None:
        self.entrance = entrance
        self.scored = windows.shape[1] - 1
        self._host = torch.from_numpy(windows.astype(np.int64))
        self._placed: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device, batch: slice = slice(None)) -> Tensor:
        """Return the ids of these windows on a device, shaped (windows, seq_len)."""
        if device not in self._placed:
            with on_common_stream(device):
                self._placed[device] = self._host.to(device)
        return self._placed[device][batch]


def _find_split(model: PreTrainedModel, probe: Tensor) -> Split:
    """Find out how a model's forward pass divides into its body and what makes logits of hidden states.

    Some models change the logits after the head: Gemma 2 caps them, Cohere and Granite scale them. So each way is
    tried on a few tokens, shaped (1, tokens). It is good only if it gives the model's own logits, bit for bit, and
    gives the first half of them of the first half of the tokens, but for the rounding of smaller matrix products.
    """
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None or model.base_model is model:
        return Split.NONE
    whole = _comparable(model(input_ids=probe, use_cache=False).logits[0])
    half, tolerance = len(whole) // 2, _ROUNDING * whole.abs().max()
    for split in (Split.HEAD, Split.STEPS):
        body, logits_of = _body_and_head(model, split)
        states = body(probe)[0]
        try:
            found, part = (_comparable(logits_of(some)) for some in (states, states[:half]))
        except RuntimeError as error:
            if what_ran_out(error) is not None:
                raise
            continue  # the head does not take them as they are: Mamba's residual stream is float32 in any model
        same = found.shape == whole.shape and torch.equal(found, whole)
        if same and bool(((part - whole[:half]).abs() <= tolerance).all()):
            return split
    return Split.NONE


def _body_and_head(model: PreTrainedModel, split: Split) -> tuple[_Map, _Map]:
    """Return two maps: token ids -> hidden states, and hidden states of any positions -> their logits.

    Without a split, the whole model is the body, with nothing left for the head to do; batches then have to be small
    enough for their logits.
    """
    base: nn.Module = model.base_model
    output_type: type[BaseModelOutput] = BaseModelOutput

    def hidden_states(ids: Tensor) -> Tensor:
        nonlocal output_type
        output = base(input_ids=ids, use_cache=False)
        output_type = type(output)
        states: Tensor = output.last_hidden_state
        return states

    def after_body(states: Tensor) -> Tensor:
        given = output_type(last_hidden_state=states[None])
        with _answering(base, given):
            logits: Tensor = model(
                input_ids=states.new_zeros((1, len(states)), dtype=torch.long), use_cache=False
            ).logits
        return logits[0]

    def all_logits(ids: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits

    if split is Split.HEAD:
        return hidden_states, model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return (hidden_states, after_body) if split is Split.STEPS else (all_logits, lambda logits: logits)


@contextlib.contextmanager
def _answering(module: nn.Module, output: object) -> Iterator[None]:
    """Let a module return this output whatever it is called with."""
    before = vars(module).get("forward")  # where somebody else, accelerate for one, has wrapped it
    module.forward = lambda *_args, **_kwargs: output
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _comparable(logits: Tensor) -> Tensor:
    """Return logits such that NaN equals NaN: a broken model is measured the same way as a sound one.

    In host memory: a model over several devices returns its logits to the first one, its head has them on the last.
    """
    return logits.float().nan_to_num(nan=torch.pi).cpu()


def _chunks(body: _Map, head: _Map, tokens: _Tokens, batch: slice) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float32 logits and their targets for all scored positions of a batch, window after window, in chunks.

    The targets have the logits' device, where a tied head may have brought them back from the last layer's.
    """
    states = body(tokens.on(tokens.entrance, batch))[:, :-1].flatten(0, 1)
    start, size = 0, CHUNK_POSITIONS
    while start < len(states):
        logits = head(states[start : start + size]).float()
        if not start:
            targets = tokens.on(logits.device, batch)[:, 1:].flatten()
        yield logits, targets[start : start + size]
        start += size
        if logits.device.type != "cpu":  # the vocabulary is known now
            size = max(CHUNK_POSITIONS, CHUNK_LOGITS // logits.shape[-1])
