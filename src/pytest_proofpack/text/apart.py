"""Windows for tuning: some that no draw of a clean edit uses, so that what is tuned is judged on text it never met.

A run draws preview and final windows anew for every run number, from all windows of the text. Tuning takes what these
draws leave: windows that no draw of the run uses first, then those that only calibrations, stress edits and errors are
measured on, none of which has tuned parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import WindowPlan
from pytest_proofpack.text.windows import PreparedText, SampledWindows, Tokens, draw_order, sampled

TUNING_DRAW = 0
"""The number of the draw that is tuning's own; those of a run count from 1."""
FEWEST_PER_SIDE = 64
"""Preview and final windows that tuning needs at least: fewer would make intervals too wide to climb by."""
_STREAM = 1
"""Tells tuning's permutation from that of the null statistics, which has the plan's seed alone."""
_SPARE = 1.1
"""How much more than what is needed on average is named where a text is too short."""


@dataclass(frozen=True)
class ApartText(PreparedText):
    """A text of which tuning draws windows apart from the run's.

    Attributes:
        apart: the windows that are drawn, shape (windows, seq_len).
        shared: how many of them calibrations, stress edits or errors of the run are measured on too.
    """

    apart: Tokens
    shared: int

    def draw(self, run: int) -> SampledWindows:
        """Return tuning's windows; there is no other draw."""
        if run != TUNING_DRAW:
            raise ConfigurationError(f"run {run}: a text for tuning has the draw {TUNING_DRAW} only.")
        return sampled(self.apart[: self.plan.preview], self.apart[self.plan.preview :], self.plan.seed)


def text_apart(text: PreparedText, judged: int, watched: int, runs: Mapping[str, int], name: str) -> ApartText:
    """Return a text with windows for tuning: as many as a certificate of the run has, or what is left.

    Args:
        text: the text, with the plan of the run.
        judged: how many draws tuned edits are certified on.
        watched: how many preview windows the activations are measured on.
        runs: how often each kind of scenario runs, for the draws that others are certified on.
        name: what messages call the text.

    Raises:
        ConfigurationError: the run's draws of clean edits leave too few windows.
    """
    plan, count = text.plan, len(text.windows)
    by_clean, by_any = (_drawn(count, plan, number) for number in (judged, max(runs.values())))
    order = np.random.default_rng([plan.seed, _STREAM]).permutation(count)
    left = [*order[~by_any[order]], *order[by_any[order] & ~by_clean[order]]]
    fewest = 2 * max(FEWEST_PER_SIDE, watched)
    if len(left) < fewest:
        raise ConfigurationError(_too_short(text, judged, len(left), fewest, name))
    taken = np.array(left[: max(fewest, plan.preview + plan.final)])
    own = replace(plan, preview=len(taken) // 2, final=len(taken) - len(taken) // 2)
    return ApartText(text.facts, text.windows, own, text.windows[taken], int(by_any[taken].sum()))


def _drawn(count: int, plan: WindowPlan, runs: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell of every window whether one of the draws 1 to ``runs`` uses it, shape (windows,)."""
    used = np.zeros(count, dtype=np.bool_)
    for run in range(1, runs + 1):
        used[draw_order(count, plan, run)[: plan.preview + plan.final]] = True
    return used


def _too_short(text: PreparedText, clean: int, left: int, fewest: int, name: str) -> str:
    plan = text.plan
    drawn = plan.preview + plan.final
    needed = drawn + fewest
    while needed * (1.0 - drawn / needed) ** clean < _SPARE * fewest:
        needed = math.ceil(1.02 * needed)
    return (
        f"{name} is too short to tune on: the {clean} draws of {drawn} windows that clean edits are certified on leave "
        f"{left} of its {len(text.windows)} different windows of {plan.seq_len} tokens, and tuning needs {fewest} that "
        f"none of them uses. Supply a text of about {needed} windows ({needed * plan.seq_len} tokens), or ask for "
        "fewer runs, such as --proofpack-runs=clean:1."
    )
