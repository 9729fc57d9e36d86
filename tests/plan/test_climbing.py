"""How far up a ladder tuning goes: bisection over readings that somebody else makes."""

from __future__ import annotations

import math

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.climbing import MARGIN, MOST_CERTIFICATES, Climb, Reading, climb, require_climbable


def reading(strain: float, *, failed: tuple[str, ...] = (), kl_mean: float | None = 0.01) -> Reading:
    return Reading(failed, {"primary_metric": strain, "rmt": 0.0}, 1.0, (0.9, 1.1), kl_mean)


def climb_to(limit: int, rungs: int) -> tuple[Climb, list[int]]:
    """Climb a ladder whose first ``limit`` rungs hold."""
    asked: list[int] = []

    def read(place: int, rung: int) -> Reading:
        assert place == 0
        asked.append(rung)
        return reading(0.1 if rung < limit else 2.0)

    return climb(1, rungs, read), asked


@pytest.mark.parametrize("rungs", [1, 2, 3, 15, 21, 127])
def test_the_strongest_rung_that_holds_is_found_whatever_it_is(rungs: int) -> None:
    for limit in range(rungs + 1):
        found, asked = climb_to(limit, rungs)
        assert (found.chosen.rung if found.chosen else -1) == limit - 1
        assert (found.beyond.rung if found.beyond else rungs) == limit
        assert len(asked) == len(set(asked)) <= rungs.bit_length()
        assert [step.rung for step in found.steps] == asked


def test_a_gate_that_fails_never_holds_however_small_the_strains() -> None:
    assert not reading(0.0, failed=("invariants_pass",)).holds
    assert reading(0.0, failed=("invariants_pass",)).strain == math.inf


def test_half_of_the_room_is_the_most_that_may_be_taken() -> None:
    assert MARGIN == 0.5
    assert reading(0.5).holds
    assert not reading(0.500001).holds
    assert reading(0.6).beyond_margin == ("primary_metric",)
    assert not Reading((), {"rmt": math.inf}, None, None, None).holds


def test_every_place_is_tried_once_and_the_one_that_bears_most_is_climbed() -> None:
    asked: list[tuple[int, int]] = []
    limits = (3, 9, 5)

    def read(place: int, rung: int) -> Reading:
        asked.append((place, rung))
        return reading((rung + 1) / limits[place] * MARGIN)

    found = climb(3, 15, read)
    assert found.chosen is not None
    assert (found.chosen.place, found.chosen.rung) == (1, 8)
    assert asked[:3] == [(0, 7), (1, 7), (2, 7)]
    assert {place for place, _ in asked[3:]} == {1}
    assert len(asked) == 3 + 3


def test_where_no_place_bears_the_middle_rung_the_smallest_divergence_decides() -> None:
    divergences = (0.9, 0.4, None)

    def read(place: int, rung: int) -> Reading:
        return reading(9.0, failed=("primary_metric_acceptable",), kl_mean=divergences[place])

    found = climb(3, 3, read)
    assert found.chosen is None
    assert found.steps[-1].place == 1
    assert found.beyond is found.steps[-1]  # the gentlest rung of all


def test_a_ladder_that_would_take_too_many_certificates_is_refused() -> None:
    require_climbable("x", 3, 63)
    require_climbable("x", 1, 2**MOST_CERTIFICATES - 1)
    with pytest.raises(ConfigurationError, match=r"edit 'x': its ladder of 256 rungs at 1 places would take 9 certif"):
        require_climbable("x", 1, 2**MOST_CERTIFICATES)
    with pytest.raises(ConfigurationError, match="has no rung for this model"):
        require_climbable("x", 1, 0)
