"""Which modules mix positions, decided once for all modules of a kind.

A state space that forgets fast, or half precision, can hide what one layer does; its sisters compute the same, so
what one of them shows holds for all. A kind is a class with the same parameters. Attention that takes keys and values
from an earlier layer has fewer of them, and does not look at its own input elsewhere: it goes with the larger kind of
its class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from torch import nn
from transformers.pytorch_utils import Conv1D

from pytest_proofpack.models import probing
from pytest_proofpack.models.probing import PROBE_ERRORS, Recording, Unanswerable

_Kind = tuple[type[nn.Module], frozenset[str]]


class Mixing:
    """Answers whether a module mixes positions, from one recorded forward pass."""

    def __init__(self, recording: Recording, modules: Iterable[tuple[str, nn.Module]]) -> None:
        """Prepare the answers.

        Args:
            recording: of the model.
            modules: those that may be asked about, by path.
        """
        self._recording = recording
        self._likes: dict[_Kind, list[str]] = defaultdict(list)
        for name, module in modules:
            if name in recording.calls:
                self._likes[_kind(module)].append(name)
        self._answers: dict[_Kind, bool | Unanswerable] = {}

    def of(self, name: str, module: nn.Module) -> bool:
        """Tell whether a module mixes positions.

        One that is not called itself, only what is inside it, mixes if any of that does.

        Raises:
            Unanswerable: neither it nor one of its kind was called, or none of them can be probed.
        """
        if isinstance(module, (nn.Linear, Conv1D)):
            if name not in self._recording.called:
                raise Unanswerable("is not called")
            return False
        kind = _kind(module)
        if kind in self._likes:
            larger = [other for other in self._likes if other[0] is kind[0] and other[1] > kind[1]]
            answers = [self._answer(own) for own in (kind, *larger)]
            if True in answers:
                return True
            if isinstance(answers[0], Unanswerable):
                raise answers[0]
            return False
        inside = self._called_inside(name, module)
        if not inside:
            raise Unanswerable("is not called, or without hidden states")
        return any(self._mixes(inner) for inner in inside)

    def _answer(self, kind: _Kind) -> bool | Unanswerable:
        if kind not in self._answers:
            self._answers[kind] = self._probed(kind)
        return self._answers[kind]

    def _probed(self, kind: _Kind) -> bool | Unanswerable:
        reason: Exception | None = None
        answered = False
        for name in self._likes[kind]:
            try:
                if self._mixes(name):
                    return True
                answered = True
            except PROBE_ERRORS as error:
                reason = error
        return False if answered else Unanswerable(str(reason))

    def _mixes(self, name: str) -> bool:
        return probing.mixes_positions(self._recording.calls[name])

    def _called_inside(self, name: str, module: nn.Module) -> list[str]:
        """Return the outermost modules inside that were called with hidden states."""
        found: list[str] = []
        for inner, _ in module.named_modules(prefix=name):
            if inner in self._recording.calls and not any(inner.startswith(f"{outer}.") for outer in found):
                found.append(inner)
        return found


def _kind(module: nn.Module) -> _Kind:
    return type(module), frozenset(name for name, _ in module.named_parameters())
