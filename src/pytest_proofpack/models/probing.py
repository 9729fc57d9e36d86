"""How modules behave, asked by running them: does a module mix positions, does it ignore the scale of its input?

One forward pass over a handful of tokens records how each watched module was called; every question is then a
second call of that module alone, with a changed input. Nothing here looks at a name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 7
"""Length of the probe input. A prime, so that no tensor dimension is likely to equal it by accident."""

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
        output = self.module(*args, **kwargs)
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor):
            raise Unanswerable("returns no tensor")
        if not bool(torch.isfinite(first).all()):
            raise Unanswerable("returns values that are not finite")
        return first.float()


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


def record_calls(model: nn.Module, watched: Mapping[str, nn.Module], vocabulary: int) -> dict[str, Call]:
    """Run ``model`` once on :data:`TOKENS` tokens and return the first call of every watched module.

    Modules that are not called, or not with a floating-point matrix, are left out.
    Whatever error the model's own forward pass raises comes through.
    """
    calls: dict[str, Call] = {}

    def record(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        slot = _hidden_slot(args, kwargs)
        if name in calls or slot is None:
            return
        # A later in-place addition of the model must not reach into the record.
        kept_args = tuple(value.clone() if index == slot else value for index, value in enumerate(args))
        kept_kwargs = {key: value.clone() if key == slot else value for key, value in kwargs.items()}
        calls[name] = Call(module, kept_args, kept_kwargs, slot)

    with contextlib.ExitStack() as hooks:
        for name, module in watched.items():
            handle = module.register_forward_pre_hook(
                lambda module, args, kwargs, name=name: record(name, module, args, kwargs), with_kwargs=True
            )
            hooks.callback(handle.remove)
        device = next(model.parameters()).device
        tokens = torch.arange(3, 3 + TOKENS, device=device) % max(vocabulary, 1)
        model(input_ids=tokens.unsqueeze(0), use_cache=False)
    return calls


def mixes_positions(call: Call) -> bool:
    """Tell whether the module's output at the last position changes when only position 0 of its input does.

    Raises:
        Unanswerable: the input is not (..., tokens, features), or see :meth:`Call.rerun`.
    """
    hidden = call.hidden
    if hidden.shape[-2] != TOKENS:
        raise Unanswerable(f"is called with a tensor of shape {tuple(hidden.shape)}")
    changed = hidden.clone()
    changed[..., 0, :] = _noise_like(hidden[..., 0, :], _root_mean_square(hidden))
    return _differ(call.rerun(hidden)[..., -1, :], call.rerun(changed)[..., -1, :], hidden.dtype)


def ignores_scale(call: Call) -> bool:
    """Tell whether the module's output stays the same when its input is four times as large.

    The input is noise of deviation 16 and 64, so that the small constant that norms add to the variance plays no
    part, whatever the recorded hidden states are like.

    Raises:
        Unanswerable: see :meth:`Call.rerun`.
    """
    small, large = (call.rerun(_noise_like(call.hidden, scale)) for scale in (16.0, 64.0))
    return not _differ(small, large, call.hidden.dtype)


def are_query_or_key(call: Call, projection: nn.Module, features: Tensor) -> bool:
    """Tell whether these output features of an attention module's fused projection are queries and keys only.

    At position 0 causal attention can only look at position 0: its output depends on the values there, and not on
    queries and keys. So they are disturbed at position 0, and the module's output there is watched.

    Args:
        call: a call of the attention module.
        projection: the fused projection inside it.
        features: indices of the output features in question, shape (n,).

    Raises:
        Unanswerable: see :meth:`Call.rerun`.
    """

    def disturb(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
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
    return not _differ(before, after, call.hidden.dtype)


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
