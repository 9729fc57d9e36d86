"""The rest of a run, simulated by a greedy rule, to compare what could be done now (a rollout, in the field's word).

What the comparison is for, and the rules around it: :mod:`pytest_proofpack.scheduling.assignment`.
"""

from __future__ import annotations

import copy
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass
class ScheduleState:
    """What is known of a run at some moment.

    Attributes:
        now: the moment, in seconds.
        devices: how many devices each load takes.
        load_seconds: how long each takes to load.
        pending: seconds of the items that nobody was given, by load, ascending.
        hosts: the host of each slot.
        idle: the slots that could load something.
        running: per slot that is not idle, when it ends what it was given, what it then has loaded, and which slots
            lend it their devices.
    """

    now: float
    devices: Mapping[str, int]
    load_seconds: Mapping[str, float]
    pending: dict[str, list[float]]
    hosts: Mapping[str, str]
    idle: list[str]
    running: dict[str, tuple[float, str, tuple[str, ...]]] = field(default_factory=dict)


class Rollout(NamedTuple):
    """A simulated rest of a run: when it ends, and how much device time is spent on loads, both in seconds."""

    end: float
    loading: float


class Forecast:
    """The rest of a run, simulated from a state.

    The greedy rule: whoever has something loaded goes on with it; what nobody has loaded goes first, most devices and
    then most work first; then whoever is idle joins where most work is left per worker, if that is more than a load
    and an item take.
    """

    def __init__(self, state: ScheduleState) -> None:
        self._now = state.now
        self._known = state
        self._pending = {load: list(seconds) for load, seconds in state.pending.items()}
        self._work = {load: sum(seconds) for load, seconds in state.pending.items()}
        self._idle = list(state.idle)
        self._running = dict(state.running)
        self._groups = Counter(load for _, load, _ in state.running.values())
        self._ends = [(end, slot) for slot, (end, _, _) in state.running.items()]
        self._loading = 0.0
        heapq.heapify(self._ends)

    def best(self, candidates: Sequence[str], *, may_wait: bool) -> str | None:
        """Return the load among ``candidates`` that is best begun now; None if it is better to wait, where allowed.

        Best is what costs least, by the measure that the third rule of the policy states.
        """
        fresh = sorted((load for load in candidates if not self._groups[load]), key=self._size, reverse=True)
        joins = sorted((load for load in candidates if self._groups[load]), key=self._size, reverse=True)
        options: list[str | None] = [*fresh, *([None] if may_wait else []), *joins]
        if len(options) < 2:
            return options[0] if options else None
        return min(options, key=self._cost)

    def run(self) -> Rollout:
        """Simulate the rest of the run."""
        self._fill()
        while self._ends:
            freed = self._next_end()
            if freed:
                self._idle += freed
                self._fill()
        return Rollout(self._now, self._loading)

    def _cost(self, load: str | None) -> float:
        trial = copy.copy(self)
        trial._pending = {name: list(seconds) for name, seconds in self._pending.items()}
        trial._work, trial._groups = dict(self._work), self._groups.copy()
        trial._idle, trial._running, trial._ends = list(self._idle), dict(self._running), list(self._ends)
        if load is None:
            trial._wait()
        else:
            group = trial._group(load)
            assert group is not None
            trial._load(load, group)
        rollout = trial.run()
        return (rollout.end - self._now) * len(self._known.hosts) + rollout.loading

    def _wait(self) -> None:
        """Let the idle stay idle until the next one is."""
        idle, self._idle = self._idle, []
        while self._ends and not self._idle:
            self._idle = self._next_end()
        self._idle = idle + self._idle

    def _next_end(self) -> list[str]:
        """Go on to the next end of an item; return the slots that this frees: none if there is more of its load."""
        self._now, slot = heapq.heappop(self._ends)
        _, load, borrowed = self._running[slot]
        if self._pending.get(load):
            self._give(slot, load, borrowed, 0.0)
            return []
        self._groups[load] -= 1
        return [slot, *borrowed]

    def _size(self, load: str) -> tuple[int, float]:
        return self._known.devices[load], self._known.load_seconds[load] + self._work[load]

    def _fill(self) -> None:
        while self._idle and (choice := self._greedy_choice()) is not None:
            self._load(*choice)

    def _greedy_choice(self) -> tuple[str, list[str]] | None:
        loads = sorted((load for load, seconds in self._pending.items() if seconds), key=self._size, reverse=True)
        for load in loads:
            if not self._groups[load] and (group := self._group(load)) is not None:
                return load, group
        held = [load for load in loads if self._groups[load]]
        for load in sorted(held, key=lambda load: self._work[load] / self._groups[load], reverse=True):
            worth = self._work[load] / self._groups[load] > self._known.load_seconds[load] + self._pending[load][-1]
            if worth and (group := self._group(load)) is not None:
                return load, group
        return None

    def _group(self, load: str) -> list[str] | None:
        """Return idle slots of one host that are as many as a load takes; None if there are too few."""
        devices, hosts = self._known.devices[load], self._known.hosts
        for slot in self._idle:
            group = [slot, *(other for other in self._idle if other != slot and hosts[other] == hosts[slot])]
            if len(group) >= devices:
                return group[:devices]
        return None

    def _load(self, load: str, group: list[str]) -> None:
        self._idle = [slot for slot in self._idle if slot not in group]
        self._groups[load] += 1
        self._loading += self._known.load_seconds[load] * len(group)
        self._give(group[0], load, tuple(group[1:]), self._known.load_seconds[load])

    def _give(self, slot: str, load: str, borrowed: tuple[str, ...], loading: float) -> None:
        seconds = self._pending[load].pop()
        self._work[load] -= seconds
        end = self._now + loading + seconds
        self._running[slot] = end, load, borrowed
        heapq.heappush(self._ends, (end, slot))
