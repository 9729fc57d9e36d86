"""Which certificates are in which shard of a run: pure policy, and the plan decides alone.

Every host works it out for itself and has to come to the same, whatever it has of models, devices and versions of
Python. So sizes are those that the suite states, and costs are whole numbers, which add up to the same everywhere.

What needs the same thing loaded stays together as long as that costs no time: at first there are as many pieces as
loads, or more only where there would be fewer than shards; then the largest piece of the busiest shard is cut, as long
as the whole run ends sooner by it. A piece holds the certificates on few draws of windows, since what the unedited
model reads on a draw has to be measured once in every shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_proofpack.models.files import BYTES_PER_PARAMETER
from pytest_proofpack.runs.run import Run
from pytest_proofpack.scheduling.costs import GPU, ModelSize, certificate_seconds, forward_seconds, load_of

_UNKNOWN_SIZE = 1_000_000_000
"""Parameters of models of which the suite does not say it, where it says it of none."""
_UNIT = 1e-6
"""Costs are counted in millionths of a second."""
_WORTH_A_CUT = 0.02
"""Share of the time by which the run has to end sooner for more pieces to be worth it."""


class _Work(NamedTuple):
    """A certificate: its request, its draw of windows, and what it costs."""

    id: str
    run: int
    cost: int


@dataclass
class _Pile:
    """The certificates that need the same thing loaded.

    Attributes:
        load_cost: of loading it.
        draw_cost: of measuring the unedited model on one draw of windows.
        works: the certificates.
        pieces: in how many pieces they are dealt.
    """

    load_cost: int
    draw_cost: int
    works: list[_Work] = field(default_factory=list)
    pieces: int = 1

    @property
    def cost(self) -> int:
        """What all of it costs in one shard."""
        return self.cost_of(self.works)

    def cost_of(self, works: Sequence[_Work]) -> int:
        """Return what some of it costs in a shard of its own."""
        return self.load_cost + self.draw_cost * len({work.run for work in works}) + sum(work.cost for work in works)

    def cut(self) -> list[_Piece]:
        """Return its pieces, none empty: each ends where its share of the costs is reached."""
        total, done, begin = sum(work.cost for work in self.works), 0, 0
        pieces = []
        for number in range(1, self.pieces + 1):
            end, latest = begin, len(self.works) - (self.pieces - number)
            while end < latest and (end == begin or number * total > self.pieces * (done + self.works[end].cost // 2)):
                done += self.works[end].cost
                end += 1
            works = self.works[begin : latest if number == self.pieces else end]
            pieces.append(_Piece(self, works, self.cost_of(works)))
            begin = end
        return pieces


class _Piece(NamedTuple):
    """Certificates of a pile that stay together."""

    pile: _Pile
    works: Sequence[_Work]
    cost: int


def shares(run: Run, count: int) -> list[frozenset[str]]:
    """Return the ids of the requests of every shard; each has at least one.

    Args:
        run: the run, of which only the plan matters.
        count: how many shards, at most as many as there are requests.
    """
    piles = _piles(run)
    while sum(pile.pieces for pile in piles) < count:
        _cut(max((pile for pile in piles if pile.pieces < len(pile.works)), key=lambda pile: pile.cost // pile.pieces))
    best = shards = _dealt(piles, count)
    most = len(piles) + count  # so many pieces are enough for shards of equal length
    while sum(pile.pieces for pile in piles) < most:
        able = [piece for piece in max(shards, key=_seconds) if len(piece.works) > 1]
        if not able:
            break
        _cut(max(able, key=lambda piece: piece.cost).pile)
        shards = _dealt(piles, count)
        if _makespan(shards) < (1 - _WORTH_A_CUT) * _makespan(best):
            best = shards
    return [frozenset(work.id for piece in shard for work in piece.works) for shard in best]


def _piles(run: Run) -> list[_Pile]:
    """Return the certificates of a run by what they need loaded, those on one draw of windows together."""
    known = [model.parameters for model in run.suite.models if model.parameters is not None]
    usual = sum(known) // len(known) if known else _UNKNOWN_SIZE
    piles: dict[str, _Pile] = {}
    for request in sorted(run.plan.requests, key=lambda request: request.run):
        parameters = request.model.parameters or usual
        weights, windows = parameters * BYTES_PER_PARAMETER, run.window_plan(parameters, None)
        size = ModelSize(parameters, weights, (windows.preview + windows.final) * windows.seq_len)
        load = load_of(request, size, GPU, weights if request.loads_its_own else 0)
        seconds, draw = certificate_seconds(request, size, GPU), forward_seconds(size, GPU)
        pile = piles.setdefault(load.id, _Pile(_counted(load.seconds), _counted(draw)))
        pile.works.append(_Work(request.id, request.run, _counted(seconds)))
    return list(piles.values())


def _counted(seconds: float) -> int:
    return round(seconds / _UNIT)


def _cut(pile: _Pile) -> None:
    pile.pieces += 1


def _dealt(piles: Sequence[_Pile], count: int) -> list[list[_Piece]]:
    """Deal pieces to shards: the longest first, each to the shard that has least to do."""
    shards: list[list[_Piece]] = [[] for _ in range(count)]
    pieces = [piece for pile in piles for piece in pile.cut()]
    for piece in sorted(pieces, key=lambda piece: -piece.cost):
        min(shards, key=_seconds).append(piece)
    return shards


def _seconds(shard: Sequence[_Piece]) -> int:
    return sum(piece.cost for piece in shard)


def _makespan(shards: Sequence[Sequence[_Piece]]) -> int:
    return max(map(_seconds, shards))
