"""Texts on pages: what a line is not to be broken in, whoever wrote it."""

from __future__ import annotations

import pytest

from pytest_proofpack.report.rendering import whole


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("multiplied perplexity by 2.19 (95 % interval 2.1 to 2.3)", ["95 % interval"]),
        ("at most 10 % more; from −1.5 % on, 1,024 MB and 14.5 GiB", ["10 %", "−1.5 %", "1,024 MB", "14.5 GiB"]),
        ("0.2 nats of KL in 69 s, 0.7009 bits per byte", ["0.2 nats", "69 s", "0.7009 bits"]),
        ("from 2026-11-27T02:43:24Z on", ["2026-11-27T02:43:24Z"]),
        ("5 songs of 3 samples, 100% sure, <b>5 %</b>", ["5 %"]),
    ],
)
def test_a_number_stays_with_its_unit(text: str, kept: list[str]) -> None:
    parts = whole(text).split('<span class="nowrap">')
    assert [part.partition("</span>")[0] for part in parts[1:]] == kept
    assert "<b>" not in whole(text)
