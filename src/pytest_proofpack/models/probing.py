"""How modules behave, asked by running them: does a module mix positions, does it ignore the scale of its input?

One forward pass over a handful of tokens records how every module was called; each question is then a second call of
one module alone, with a changed input. Nothing here looks at a name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_proofpack.common.shortage import what_ran_out

TOKENS = 7
"""Length of the probe input. A prime, so that no tensor dimension is likely to equal it by accident."""
LEFT_ALONE = 2
"""Last positions that the mixing probe leaves as they are: feed-forward layers that look one step back (RWKV's) do not
mix positions, convolutions over three and more do."""

_SEED = 20240607


class Unanswerable(Exception):  # noqa: N818 - not an error of the user's or the program's: a question without answer
    """A probe has no answer: the module was never called, or not with one hidden state per position."""


PROBE_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, Unanswerable)
"""What a module may raise when it is called in a way that it was not made for."""


@dataclass(frozen=True)
class Call:
    """One recorded call of a module, and where in its arguments the hidden states stand.

    Attributes:
        module: the module called.
        args: positional arguments.
        kwargs: keyword arguments.
        slot: index into ``args`` or key of ``kwargs`` of the hidden states, the first floating-point
            argument with two or more dimensions.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    slot: int | str

    @property
    def hidden(self) -> Tensor:
        """The hidden states that the module was called with."""
        value = self.args[self.slot] if isinstance(self.slot, int) else self.kwargs[self.slot]
        assert isinstance(value, Tensor)
        return value

    def rerun(self, hidden: Tensor) -> Tensor:
        """Call the module again with other hidden states; return its output, in float32.

        Raises:
            Unanswerable: the output holds no tensor, or is not finite.
        """
        args, kwargs = list(self.args), dict(self.kwargs)
        if isinstance(self.slot, int):
            args[self.slot] = hidden
        else:
            kwargs[self.slot] = hidden
        return self._called(args, kwargs)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Call the module again with all of its arguments changed that look like hidden states; see :meth:`rerun`.

        Some attention takes what it makes keys and values of apart from what it makes queries of.
        """
        like = self.hidden

        def other(value: Any) -> Any:
            alike = isinstance(value, Tensor) and value.shape == like.shape and value.dtype == like.dtype
            return change(value) if alike else value

        return self._called([other(value) for value in self.args], {k: other(v) for k, v in self.kwargs.items()})

    def _called(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        first = first_tensor(self.module(*args, **kwargs))
        if first is None:
            raise Unanswerable("returns no tensor")
        if not bool(torch.isfinite(first).all()):
            raise Unanswerable("returns values that are not finite")
        return first.float()


@dataclass(frozen=True)
class Recording:
    """What one forward pass over the probe's tokens called.

    Attributes:
        calls: the first call of every module that was given a floating-point matrix, by the module's path.
        called: the paths of all modules that were called, whatever with, in the order of their first calls.
        error: what the model's forward pass raised, if it did not get through; then ``calls`` is empty.
        logits: float32, shape (tokens, vocabulary); None after an error.
    """

    calls: Mapping[str, Call]
    called: Mapping[str, None]
    error: Exception | None = None
    logits: Tensor | None = None

    def called_within(self, name: str) -> bool:
        """Tell whether a module, or one inside it, was called."""
        return name in self.called or any(called.startswith(f"{name}.") for called in self.called)


def first_tensor(output: object) -> Tensor | None:
    """Return a module's output, the first entry of one that is a tuple or list; None where that is no tensor."""
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    return first if isinstance(first, Tensor) else None


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the body without gradients and in evaluation mode; leave modes and random state as they were."""
    modes = {module: module.training for module in model.modules()}
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        try:
            model.eval()
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def record_calls(model: nn.Module, vocabulary: int) -> Recording:
    """Run ``model`` once on :data:`TOKENS` tokens and return the first call of every module in it.

    Raises:
        RuntimeError: memory ran out. What else the model's forward pass raises is recorded.
    """
    calls: dict[str, Call] = {}
    called: dict[str, None] = {}

    def record(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        called[name] = None
        slot = _hidden_slot(args, kwargs)
        if name in calls or slot is None:
            return
        # A later in-place addition of the model must not reach into the record.
        kept_args = tuple(value.clone() if index == slot else value for index, value in enumerate(args))
        kept_kwargs = {key: value.clone() if key == slot else value for key, value in kwargs.items()}
        calls[name] = Call(module, kept_args, kept_kwargs, slot)

    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            handle = module.register_forward_pre_hook(
                lambda module, args, kwargs, name=name: record(name, module, args, kwargs), with_kwargs=True
            )
            hooks.callback(handle.remove)
        try:
            logits = _logits(model, _probe_tokens(model, vocabulary))
        except PROBE_ERRORS as error:
            if what_ran_out(error) is not None:
                raise  # that says nothing of the model
            return Recording({}, called, error)
    return Recording(calls, called, logits=logits)


def sees_ahead(model: nn.Module, vocabulary: int, recording: Recording) -> bool:
    """Tell whether what a model predicts at some position depends on a later token, so that it is no decoder."""
    assert recording.logits is not None
    tokens = _probe_tokens(model, vocabulary)
    tokens[0, -1] = tokens[0, 0]
    return _differ(recording.logits[:-1], _logits(model, tokens)[:-1], next(model.parameters()).dtype)


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits[0].float()


def _probe_tokens(model: nn.Module, vocabulary: int) -> Tensor:
    device = next(model.parameters()).device
    return (torch.arange(3, 3 + TOKENS, device=device) % max(vocabulary, 1)).unsqueeze(0)


def mixes_positions(call: Call) -> bool:
    """Tell whether the module's output at the last position changes when the input does at all but the last two.

    All of them are disturbed, so that it shows in modules that see a few positions (short convolutions) and in those
    that forget (state spaces) as well as in attention.

    Raises:
        Unanswerable: no dimension of the input can be told to be that of the positions, or see :meth:`Call.rerun`.
    """
    hidden = call.hidden
    axis = _position_axis(hidden)
    places = torch.arange(hidden.shape[axis] - LEFT_ALONE, device=hidden.device)

    def disturbed(states: Tensor) -> Tensor:
        noise = _noise_like(states.index_select(axis, places), _root_mean_square(states))
        return states.index_copy(axis, places, noise)

    before, after = (_last_position(output, hidden, axis) for output in (call.rerun(hidden), call.changed(disturbed)))
    return _differ(before, after, hidden.dtype)


def _position_axis(hidden: Tensor) -> int:
    """Return the dimension of the positions, counted from the front."""
    if hidden.shape[-2] == TOKENS:
        return hidden.ndim - 2
    axes = [axis for axis in range(hidden.ndim - 1) if hidden.shape[axis] == TOKENS]
    if not axes and hidden.ndim == 3 and len(hidden) == 1 and hidden.shape[1] > TOKENS:
        return 1  # a model that puts tokens of its own in front
    if len(axes) != 1:
        raise Unanswerable(f"is called with a tensor of shape {tuple(hidden.shape)}")
    return axes[0]


def _last_position(output: Tensor, hidden: Tensor, axis: int) -> Tensor:
    """Return the output at the last position; the positions stand where they did in the input, or before the last."""
    length = hidden.shape[axis]
    for own in (axis, output.ndim - 2):
        if 0 <= own < output.ndim and output.shape[own] == length:
            return output.select(own, -1)
    raise Unanswerable(f"returns a tensor of shape {tuple(output.shape)}")


def is_linear(call: Call, weight: Tensor, bias: Tensor | None) -> bool:
    """Tell whether the module multiplies its input by this matrix, shape (outputs, inputs), and no more.

    Raises:
        Unanswerable: see :meth:`Call.rerun`.
    """
    hidden = call.hidden
    if hidden.shape[-1] != weight.shape[1]:
        return False
    output, expected = call.rerun(hidden), nn.functional.linear(hidden, weight, bias).float()
    return output.shape == expected.shape and not _differ(output, expected, hidden.dtype)


def ignores_scale(call: Call) -> bool:
    """Tell whether the module's output stays the same when its input is four times as large.

    The input is noise of deviation 16 and 64, so that the small constant that norms add to the variance plays no
    part, whatever the recorded hidden states are like.

    Raises:
        Unanswerable: see :meth:`Call.rerun`.
    """
    small, large = (call.rerun(_noise_like(call.hidden, scale)) for scale in (16.0, 64.0))
    return not _differ(small, large, call.hidden.dtype)


def reaches_first_position(call: Call, projection: nn.Module, features: Tensor) -> bool:
    """Tell whether these output features of a projection inside an attention module, at position 0, matter there.

    At position 0 causal attention can only look at position 0: its output depends on the values there, and not on
    queries and keys. So the features are disturbed at position 0, and the module's output there is watched.

    Args:
        call: a call of the attention module.
        projection: the projection inside it.
        features: indices of the output features in question, shape (n,).

    Raises:
        Unanswerable: the projection is not called as a module, or see :meth:`Call.rerun`.
    """
    asked = False

    def disturb(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        nonlocal asked
        asked = True
        changed = output.clone()
        row = changed[..., 0, features]
        changed[..., 0, features] = row + _noise_like(row, _root_mean_square(output))
        return changed

    before = call.rerun(call.hidden)[..., 0, :]
    handle = projection.register_forward_hook(disturb)
    try:
        after = call.rerun(call.hidden)[..., 0, :]
    finally:
        handle.remove()
    if not asked:
        raise Unanswerable("does not call the projection")
    return _differ(before, after, call.hidden.dtype)


def output_features(call: Call) -> int:
    """Return the size of the last dimension of the module's output."""
    return int(call.rerun(call.hidden).shape[-1])


def _hidden_slot(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | str | None:
    """Find the first floating-point matrix among the arguments; masks come later, and rotary tables in tuples."""
    slots: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for slot, value in slots:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2:
            return slot
    return None


def _differ(first: Tensor, second: Tensor, dtype: torch.dtype) -> bool:
    """Compare by relative norm, with room for the rounding that another order of summation brings."""
    tolerance = max(1e-4, 2 * torch.finfo(dtype).eps)
    scale = max(float(first.norm()), float(second.norm()))
    return float((first - second).norm()) > tolerance * scale


def _root_mean_square(tensor: Tensor) -> float:
    return float(tensor.float().square().mean().sqrt()) or 1.0


def _noise_like(tensor: Tensor, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(tensor.shape, generator=generator) * scale
    return noise.to(device=tensor.device, dtype=tensor.dtype)
