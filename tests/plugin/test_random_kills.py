"""Twenty sessions that are killed at random moments; ``python -m benchmarks.random_kills`` does it more often."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.random_kills import TARGETS, Suite, rounds
from tests.plugin.conftest import small_suite

ROUNDS = 20


@pytest.mark.slow
@pytest.mark.first
def test_no_kill_loses_what_was_finished_or_leaves_anything_half_written(
    tmp_path: Path, saved_model: Path, sample_text: Path
) -> None:
    (tmp_path / "given").mkdir()
    small = small_suite(tmp_path / "given", saved_model, sample_text)
    small.write(clean=2)
    suite = Suite(tmp_path, canned=True, suite=(f"--proofpack-suite={small.suite}",))
    done = list(rounds(suite, ROUNDS, seed=1))

    assert len(done) == ROUNDS
    assert {one.target for one in done} == set(TARGETS)
    assert [one for one in done if one.findings] == []
    assert sum(one.signal != "too late" for one in done) > ROUNDS / 3
