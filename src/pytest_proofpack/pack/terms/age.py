"""Demands on when a pack was made; the times are its maker's word, in the manifest and in the signature."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pytest_proofpack.pack.terms.term import Judgement, Term

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import Verified

UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
CLOCKS_DIFFER = timedelta(minutes=10)
"""How far in the future a time may lie."""
_AGE = re.compile(r"(?P<number>[1-9][0-9]{0,5})(?P<unit>[hdw])")


def _read_age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None:
        raise ValueError("expected a number and a unit: 12h, 30d or 8w")
    return int(match["number"]) * UNITS[match["unit"]]


def _read_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            "expected a day or a time: 2026-01-31 or 2026-01-31T12:00:00Z (UTC if it says no zone)"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _judge_age(longest: timedelta, facts: Verified) -> Judgement:
    now = datetime.now(UTC)
    judgement = _judged(facts, lambda earliest: now - earliest <= longest)
    late = max(facts.times.values(), default=now) > now + CLOCKS_DIFFER
    return Judgement(False, f"{judgement.why}, which is in the future") if late else judgement


def _judged(facts: Verified, is_late_enough: Callable[[datetime], bool]) -> Judgement:
    """Judge the earliest time that is known of the pack: then all are late enough."""
    if not facts.times:
        return Judgement(False, "when it was made cannot be read")
    told = " and ".join(f"{what} {time:%Y-%m-%dT%H:%M:%SZ}" for what, time in facts.times.items())
    return Judgement(is_late_enough(min(facts.times.values())), told)


MAX_AGE = Term("max-age", "demand a pack that is at most this old: 12h, 30d, 8w", "AGE", _read_age, _judge_age)
NOT_BEFORE = Term(
    "not-before",
    "demand a pack that was made on this day (UTC) or later; a time may be given too",
    "DATE",
    _read_time,
    lambda first, facts: _judged(facts, lambda earliest: earliest >= first),
)
