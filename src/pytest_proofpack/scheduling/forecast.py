"""The rest of a run, simulated by a greedy rule, to compare what could be done now (a rollout, in the field's word).

What the comparison is for, and the rules around it: :mod:`pytest_proofpack.scheduling.assignment`.
"""

from __future__ import annotations

import copy
import heapq
from collections import Counter, defaultdict
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
        home: the host that is not lost.
        idle: the slots that could load something.
        running: per slot that is not idle, when it ends what it was given, what it then has loaded, and which slots
            lend it their devices.
    """

    now: float
    devices: Mapping[str, int]
    load_seconds: Mapping[str, float]
    pending: dict[str, list[float]]
    hosts: Mapping[str, str]
    home: str
    idle: list[str]
    running: dict[str, tuple[float, str, tuple[str, ...]]] = field(default_factory=dict)


class Candidate(NamedTuple):
    """Something that could be loaded now, and where: the slot whose worker would, and those that lend it devices."""

    load: str
    slots: tuple[str, ...]


class Rollout(NamedTuple):
    """A simulated rest of a run.

    Attributes:
        end: when it ends, in seconds.
        again: when it ends at the earliest if the worst item is lost at its end, and made again at once.
        loading: how much device time is spent on loads, in seconds.
    """

    end: float
    again: float
    loading: float


class Forecast:
    """The rest of a run, simulated from a state.

    Whoever has something loaded goes on with it. What an idle one loads, a greedy rule says, and there are two:

    - what nobody has loaded goes first, most devices and then most work first; then whoever is idle joins where it
      takes longest until all is done, unless that is before a load and an item are;
    - what takes longest goes first, whether nobody has it loaded or others have; but nobody joins who would not make
      items for as long as the load takes.

    Which one serves a plan better depends on how loads fit into the devices that there are, so both are played, and the
    better end counts.
    """

    def __init__(self, state: ScheduleState) -> None:
        self._now = state.now
        self._known = state
        self._pending = {load: list(seconds) for load, seconds in state.pending.items()}
        self._work = {load: sum(seconds) for load, seconds in state.pending.items()}
        self._idle = list(state.idle)
        self._running = dict(state.running)
        self._groups = Counter(load for _, load, _ in state.running.values())
        self._until = defaultdict[str, float](float)
        for end, load, _ in state.running.values():
            self._until[load] += end
        self._ends = [(end, slot) for slot, (end, _, _) in state.running.items()]
        self._again = state.now
        self._loading = 0.0
        self._longest_first = False
        heapq.heapify(self._ends)

    def best(self, candidates: Sequence[Candidate], *, may_wait: bool) -> Candidate | None:
        """Return the candidate that is best begun now; None if it is better to wait, where allowed.

        Best is what costs least, by the measure that the third rule of the policy states.
        """
        ordered = sorted(candidates, key=lambda candidate: self._size(candidate.load), reverse=True)
        fresh = [candidate for candidate in ordered if not self._groups[candidate.load]]
        joins = [candidate for candidate in ordered if self._groups[candidate.load]]
        options: list[Candidate | None] = [*fresh, *([None] if may_wait else []), *joins]
        if len(options) < 2:
            return options[0] if options else None
        return min(options, key=self._cost)

    def run(self) -> Rollout:
        """Simulate the rest of the run by the rule that serves it better."""
        return min((self._copy(longest_first=rule)._play() for rule in (False, True)), key=self._cost_of)

    def _play(self) -> Rollout:
        self._fill()
        while self._ends:
            freed = self._next_end()
            if freed:
                self._idle += freed
                self._fill()
        return Rollout(self._now, max(self._now, self._again), self._loading)

    def _cost(self, candidate: Candidate | None) -> float:
        trial = self._copy()
        if candidate is None:
            trial._wait()
        else:
            trial._load(*candidate)
        return self._cost_of(trial.run())

    def _cost_of(self, rollout: Rollout) -> float:
        end = (rollout.end + rollout.again) / 2
        return (end - self._known.now) * len(self._known.hosts) + rollout.loading

    def _copy(self, *, longest_first: bool = False) -> Forecast:
        copied = copy.copy(self)
        copied._pending = {name: list(seconds) for name, seconds in self._pending.items()}
        copied._work, copied._groups, copied._until = dict(self._work), self._groups.copy(), self._until.copy()
        copied._idle, copied._running, copied._ends = list(self._idle), dict(self._running), list(self._ends)
        copied._longest_first = longest_first
        return copied

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
        self._until[load] -= self._now
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
        loads = [load for load, seconds in self._pending.items() if seconds and self._worth(load)]
        for load in sorted(loads, key=self._rank, reverse=True):
            if (group := self._group(load)) is not None:
                return load, group
        return None

    def _rank(self, load: str) -> tuple[float, float]:
        """Return by what the rule compares loads: the largest goes first."""
        if self._groups[load]:
            return 0, self._seconds_left(load)
        devices, seconds = self._size(load)
        return (0 if self._longest_first else devices), seconds

    def _seconds_left(self, load: str) -> float:
        """Return how long it takes until all items of a load are done, if nobody joins those that have it loaded."""
        return (self._until[load] + self._work[load]) / self._groups[load] - self._now

    def _worth(self, load: str) -> bool:
        """Tell whether it is worth while to load something, or to join whoever has it loaded."""
        loads = 2 if self._longest_first else 1
        least = loads * self._known.load_seconds[load] + self._pending[load][-1]
        return not self._groups[load] or self._seconds_left(load) > least

    def _group(self, load: str) -> list[str] | None:
        """Return idle slots of one host that are as many as a load takes; None if there are too few.

        Of the hosts that have enough, one with the fewest: what takes several devices finds more room on the others.
        """
        devices, hosts = self._known.devices[load], self._known.hosts
        idle: dict[str, list[str]] = {}
        for slot in self._idle:
            idle.setdefault(hosts[slot], []).append(slot)
        able = [slots for slots in idle.values() if len(slots) >= devices]
        return min(able, key=len)[:devices] if able else None

    def _load(self, load: str, group: Sequence[str]) -> None:
        self._idle = [slot for slot in self._idle if slot not in group]
        self._groups[load] += 1
        self._loading += self._known.load_seconds[load] * len(group)
        self._give(group[0], load, tuple(group[1:]), self._known.load_seconds[load])

    def _give(self, slot: str, load: str, borrowed: tuple[str, ...], loading: float) -> None:
        seconds = self._pending[load].pop()
        self._work[load] -= seconds
        end = self._now + loading + seconds
        self._running[slot] = end, load, borrowed
        self._until[load] += end
        if self._known.hosts[slot] != self._known.home:
            self._again = max(self._again, end + seconds)
        heapq.heappush(self._ends, (end, slot))
