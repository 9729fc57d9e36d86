"""The text of the windows that lost most, kept in a certificate only where the user asks for it.

A certificate holds of every window the hash of its token ids, and nothing that could be read. With
``--proofpack-keep-text`` it holds what the worst final windows say too, under ``dataset.kept_text``. Which these are
follows from the losses and is checked; that their text is theirs nobody can tell without the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import EvaluatedWindows

WORST = 5
"""How many of the final windows are looked at one by one."""
MOST_CHARACTERS = 2000
"""How much is kept of a window's text."""
KEY = "kept_text"


def worst_windows(subject: Sequence[float | None], baseline: Sequence[float]) -> list[int]:
    """Return the windows that lost most, as indices, the worst first: those without a finite loss, then by difference.

    Args:
        subject: the edited model's mean loss per window, in nats per token; None or NaN where it is not finite.
        baseline: the baseline's.
    """

    def loss(index: int) -> float:
        value = subject[index]
        return math.inf if value is None or math.isnan(value) else value - baseline[index]

    return sorted(range(len(subject)), key=lambda index: (-loss(index), index))[:WORST]


def kept(texts: Mapping[str, str]) -> list[JsonObject]:
    """Return what a certificate records of the texts of windows, by their ids: valid Unicode of bounded length."""
    return [{"window_id": window, "text": _bounded(text)} for window, text in texts.items()]


def _bounded(text: str) -> str:
    valid = text.encode("utf-8", "backslashreplace").decode()
    return valid if len(valid) <= MOST_CHARACTERS else valid[: MOST_CHARACTERS - 1] + "…"


def check_kept_text(dataset: Mapping[str, Any], final: EvaluatedWindows) -> None:
    """Make sure that texts, if there are any, are said to be those of the worst windows, in their order.

    Raises:
        FormatError: they are said to be of others.
    """
    if KEY in dataset:
        worst = [final.ids[index] for index in worst_windows(final.subject, final.baseline)]
        if [entry["window_id"] for entry in dataset[KEY]] != worst:
            raise FormatError(f"dataset.{KEY}: are not the final windows that lost most")
