"""What a process is doing with its item, in a word or two, for people who wait for it."""

from __future__ import annotations

from collections.abc import Callable

from pytest_proofpack.common.stopwatch import listen

LOADING, CALIBRATING, BASELINE, EDITING, MEASURING = range(5)
"""The phases, as workers tell the controller of them."""
_OF_STOPWATCH = {
    **dict.fromkeys(("load", "layout", "spectra", "digest"), LOADING),
    "null": CALIBRATING,
    "baseline": BASELINE,
    "edit": EDITING,
}


def tell_phases(tell: Callable[[int], None]) -> None:
    """Have every new phase of this process told as it begins."""
    last: list[int] = []

    def told(name: str) -> None:
        phase = _OF_STOPWATCH.get(name, MEASURING)
        if last != [phase]:
            last[:] = [phase]
            tell(phase)

    listen(told)


def phase_words(phase: int, null_draws: int) -> str:
    """Return a phase for people.

    Args:
        phase: one of those above.
        null_draws: how many draws a calibration takes.
    """
    calibrating = f"calibrating {null_draws} null draws"
    return ("loading", calibrating, "measuring the baseline", "editing", "measuring")[phase]
