"""Axes: labels that say where something stands, whatever is drawn."""

from __future__ import annotations

import pytest

from pytest_proofpack.report.scales import Scale, linear, logarithmic

RANGES = [
    (0.0, 0.2),
    (0.0, 1e-9),
    (-3e-7, 2e-6),
    (1.0, 1.0 + 1e-7),
    (0.98, 1.03),
    (-40.0, 700.0),
    (123_456.0, 123_999.0),
]


@pytest.mark.parametrize(("low", "high"), [*RANGES, (123_456.0, 123_999.0), (5e6, 5.2e6), (1e15, 1e15 + 1), (0.0, 0.0)])
def test_neighbouring_labels_differ(low: float, high: float) -> None:
    scale = linear(low, high, 100.0, 0.0)
    _say_what_they_stand_for(scale)
    assert len(scale.ticks) >= 2


@pytest.mark.parametrize(("low", "high"), [(0.02, 3.0), (1e-12, 1e12), (0.9, 40.0)])
def test_neighbouring_labels_of_a_logarithmic_axis_differ(low: float, high: float) -> None:
    _say_what_they_stand_for(logarithmic(low, high, 100.0, 0.0))


def test_ticks_close_together_get_the_digits_that_it_takes() -> None:
    ticks = (1.0, 1.00002, 1.00004)
    assert [text for _, text in Scale(float, ticks).labelled] == ["1", "1.00002", "1.00004"]
    assert [text for _, text in Scale(float, (0.1, 3 * 0.1)).labelled] == ["0.1", "0.3"]


def _say_what_they_stand_for(scale: Scale) -> None:
    texts = [text for _, text in scale.labelled]
    assert len(set(texts)) == len(texts)
    steps = [after - before for before, after in zip(scale.ticks, scale.ticks[1:], strict=False)]
    for tick, text in scale.labelled:
        assert float(text) == pytest.approx(tick, abs=min(steps) / 20)
