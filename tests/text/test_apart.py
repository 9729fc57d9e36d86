"""Windows for tuning: none that a tuned edit is certified on, and a refusal with a number where there are too few."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import TextFacts, WindowPlan
from pytest_proofpack.text.apart import TUNING_DRAW, ApartText, text_apart
from pytest_proofpack.text.windows import PreparedText

RUNS = {"calibration": 5, "clean": 2, "stress": 3, "error": 1}


def text(count: int, *, preview: int = 60, final: int = 60) -> PreparedText:
    windows = np.arange(4 * count, dtype=np.int64).reshape(count, 4)
    facts = TextFacts("x", "x", 1, "x", 4 * count, 16 * count, count)
    return PreparedText(facts, windows, WindowPlan(4, preview, final, 7))


def apart(count: int, watched: int = 16, judged: int = 2) -> ApartText:
    return text_apart(text(count), judged, watched, RUNS, "the text")


def ids(of: PreparedText, *runs: int) -> set[str]:
    return {window for run in runs for side in (of.draw(run),) for window in (*side.preview_ids, *side.final_ids)}


@pytest.mark.parametrize("count", [350, 400, 600, 2000])
def test_no_window_is_one_that_a_tuned_edit_is_certified_on(count: int) -> None:
    given = apart(count)
    own, clean, others = ids(given, TUNING_DRAW), ids(text(count), 1, 2), ids(text(count), 3, 4, 5)
    assert len(own) == given.plan.preview + given.plan.final >= 2 * 64
    assert not own & clean
    assert given.shared == len(own & others)


def test_windows_that_no_draw_uses_come_first() -> None:
    assert apart(2000).shared == 0
    unused = 400 - len(ids(text(400), 1, 2, 3, 4, 5))
    given = apart(400)
    assert given.shared == given.plan.preview + given.plan.final - unused > 0


def test_there_are_as_many_as_a_certificate_has_where_the_text_is_long_enough() -> None:
    given = text_apart(text(2000, preview=90, final=90), 2, 16, RUNS, "the text")
    assert (given.plan.preview, given.plan.final) == (90, 90)
    assert len(given.windows) == 2000  # the null statistics are those of the run
    assert given.draw(TUNING_DRAW).seed == 7


def test_the_same_text_gives_the_same_windows() -> None:
    assert apart(600).draw(TUNING_DRAW).final_ids == apart(600).draw(TUNING_DRAW).final_ids


def test_a_text_that_is_too_short_is_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="the text is too short to tune on") as caught:
        apart(250)
    message = str(caught.value)
    assert "the 2 draws of 120 windows that clean edits are certified on leave" in message
    found = re.search(r"about (\d+) windows \((\d+) tokens\)", message)
    assert found is not None
    needed = int(found[1])
    assert int(found[2]) == 4 * needed
    apart(needed)
    with pytest.raises(ConfigurationError):
        apart(needed * 3 // 4)


def test_more_windows_are_needed_where_activations_are_watched_on_more() -> None:
    assert apart(600, watched=100).plan.preview >= 100
    with pytest.raises(ConfigurationError, match="tuning needs 400 that none of them uses"):
        apart(600, watched=200)


def test_it_has_no_other_draw() -> None:
    with pytest.raises(ConfigurationError, match="a text for tuning has the draw 0 only"):
        apart(600).draw(1)
