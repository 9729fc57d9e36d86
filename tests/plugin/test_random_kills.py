"""Ten sessions that are killed at random moments; ``python -m benchmarks.random_kills`` does it more often."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.random_kills import TARGETS, Suite, rounds

ROUNDS = 10


@pytest.mark.slow
def test_no_kill_loses_what_was_finished_or_leaves_anything_half_written(tmp_path: Path) -> None:
    done = list(rounds(Suite(tmp_path, canned=True), ROUNDS, seed=1))

    assert len(done) == ROUNDS
    assert {one.target for one in done} == set(TARGETS)
    assert [one for one in done if one.findings] == []
    assert sum(one.signal != "too late" for one in done) > ROUNDS / 3
