"""Which worker gets which item next: the policy, without pytest-xdist and without a clock of its own.

Every worker owns one device slot and is given one item at a time. The rules, in this order:

1. A worker goes on with what it has loaded, the longest item first; but before those on a window sample that another
   worker is just measuring the baseline on come those on others, so that nobody waits for it.
2. What takes the most devices, then the most work, is loaded first. Something that takes k devices runs on one worker
   while k - 1 others of the same host lend theirs: they are idle, with nothing loaded. It starts with all k or not at
   all, so nobody holds some devices while waiting for others, and there is no deadlock. As long as it could start
   nothing smaller may, and what is larger frees enough devices when it ends, so it is never starved.
3. Among what these rules allow - load what nobody has loaded, join others in what they have loaded, on which host, or
   wait - an idle worker does what a :class:`pytest_proofpack.scheduling.forecast.Forecast` says is best. A load has to
   pay for itself: what counts is the device time until the end of the run, plus that spent on loads. Where there are
   several hosts, the end is the mean of two: that of a run that loses nothing, and that of one that loses, at its end,
   the worst item that is not on the session's own host.
4. Among hosts that are equally good, what would take longest to make again, a load and its longest item, goes to the
   session's own, which is not lost unless all is; anything else goes elsewhere, and to where there is least room.
5. Whoever finds nothing to do drops what it has loaded. But once everything is given out, it keeps what others are
   still making items of: should one of them be lost, nothing has to be loaded for its item.

An item that takes several times what was forecast is overdue. Nobody waits for its worker any more: what that one has
loaded counts as loaded nowhere. When it will end is anybody's guess; people are told that it takes as long again.

Everything follows from the numbers and the order of the calls: the same calls get the same answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_proofpack.scheduling.costs import Costs, Job
from pytest_proofpack.scheduling.forecast import Candidate, Forecast, ScheduleState

OVERDUE_FACTOR = 3.0
"""An item is overdue once it has taken so many times what was forecast, and this much longer:"""
OVERDUE_SECONDS = 60.0
_RELEASE_SECONDS = 60.0
"""So long a worker is trusted to be about to drop what it has loaded."""


class RunningJob(NamedTuple):
    """An item that runs.

    Attributes:
        slot: where.
        job: what.
        seconds: how long it has run, without the time that its worker waited for devices.
        forecast: how long it was to take in all, with a load if it began with one.
        placed: whether it has the devices that it needs.
    """

    slot: str
    job: Job
    seconds: float
    forecast: float
    placed: bool

    @property
    def overdue(self) -> bool:
        """Whether it takes much longer than was forecast."""
        return self.seconds > max(OVERDUE_FACTOR * self.forecast, self.forecast + OVERDUE_SECONDS)


@dataclass(frozen=True)
class Start:
    """Let ``slot`` run ``job``, with the devices of the slots ``borrowed`` besides its own."""

    slot: str
    job: Job
    borrowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Release:
    """Let ``slot``, which is idle, drop what it has loaded; it answers when it has."""

    slot: str


@dataclass
class _Slot:
    """One device and its worker.

    Attributes:
        name: of the slot.
        host: slots of one host can lend each other their devices.
        depth: how many items its worker is given at a time.
        queue: what it was given and has not finished; the first one is running.
        last: what it has finished last, and what is therefore still loaded as long as nothing is running.
        since: when the first one of the queue began, or it was told to drop what it has loaded.
        releasing: whether it was told to drop what it has loaded, and has not answered.
        placed: whether the first one of the queue has the devices that it needs.
        next: what it is to run before anything else.
    """

    name: str
    host: str
    depth: int
    queue: list[Start] = field(default_factory=list)
    last: Start | None = None
    since: float = 0.0
    releasing: bool = False
    placed: bool = False
    next: Job | None = None

    @property
    def open(self) -> bool:
        """Whether its worker can be given another item."""
        return len(self.queue) < self.depth and not self.releasing

    @property
    def load(self) -> str | None:
        """What will be loaded once everything that it was given is done."""
        final = self.queue[-1] if self.queue else self.last
        return None if final is None else final.job.load

    @property
    def loads_now(self) -> bool:
        """Whether the running item began with a load."""
        return self.last is None or self.last.job.load != self.queue[0].job.load

    @property
    def borrowed(self) -> set[str]:
        """The slots whose devices it uses, may still use, or will use."""
        return {name for start in (self.last, *self.queue) if start is not None for name in start.borrowed}


class Assignment:
    """The state of a run: what is to be done, what runs where, what is loaded where.

    Args:
        jobs: everything that is to be done.
        costs: what jobs and loads take; corrected as jobs end.
        home: the host of the session, which is not lost without the session.
    """

    def __init__(self, jobs: Iterable[Job], costs: Costs, home: str = "") -> None:
        self.costs = costs
        self._home = home
        self._slots: dict[str, _Slot] = {}
        self._pending: dict[str, list[Job]] = {}
        self._measured: set[tuple[str, int]] = set()
        self._changes = 0
        self._waiting: tuple[int, tuple[str, ...], tuple[str, ...]] | None = None
        self.give_back(jobs)

    @property
    def pending(self) -> list[Job]:
        """What no worker has been given yet, in the order of the collection."""
        return sorted((job for jobs in self._pending.values() for job in jobs), key=lambda job: job.index)

    @property
    def busy(self) -> bool:
        """Whether some worker has yet to finish an item or a release."""
        return any(slot.queue or slot.releasing or slot.next for slot in self._slots.values())

    def running(self, now: float) -> list[RunningJob]:
        """Return what runs at the time ``now``."""
        return [
            RunningJob(slot.name, slot.queue[0].job, now - slot.since, self._item_seconds(slot, 0), slot.placed)
            for slot in self._slots.values()
            if slot.queue
        ]

    def assigned(self, slot: str) -> list[Job]:
        """Return what a slot's worker was given and has not finished, in order: the first one is running."""
        return [start.job for start in self._slots[slot].queue]

    def add_slot(self, slot: str, host: str = "", depth: int = 1) -> None:
        """Add a device slot whose worker is ready, with nothing loaded.

        Args:
            slot: its name: that of the worker before it, if this one replaces a worker that died.
            host: slots of one host can lend each other their devices.
            depth: how many items its worker is given at a time: 1, or 2 if it does not begin one before it knows the
                next. The latter kind does not know how to drop what it has loaded either.
        """
        self._slots[slot] = _Slot(slot, host, depth)
        self._changes += 1

    def expect(self, slot: str, job: Job) -> None:
        """Have a slot whose worker is fresh run a job before anything else; what needs others' devices, as they can."""
        if self.costs.devices(job.load) > 1:
            self.give_back([job])
        else:
            self._slots[slot].next = job

    def remove_slot(self, slot: str) -> list[Job]:
        """Take a slot out whose worker is gone, and return what it was given and has not finished, in order.

        The first of them was running. None of them is pending again; see :meth:`give_back`.
        """
        self._changes += 1
        gone = self._slots.pop(slot)
        if gone.next is not None:
            self.give_back([gone.next])
        return [start.job for start in gone.queue]

    def close_slot(self, slot: str) -> None:
        """Give a slot's worker nothing more: it ends after what it has been given."""
        self._slots[slot].depth = 0

    def give_back(self, jobs: Iterable[Job]) -> None:
        """Make jobs pending, or pending again."""
        self._changes += 1
        for job in jobs:
            self._pending.setdefault(job.load, []).append(job)

    def complete(self, slot: str, index: int, now: float) -> bool:
        """Take note that a slot's worker has finished an item at the time ``now``, in seconds.

        Returns:
            whether it had been given that item; if not, nothing changes.
        """
        state = self._slots[slot]
        position = next((at for at, start in enumerate(state.queue) if start.job.index == index), None)
        if position is None:
            return False
        if position == 0:
            self.costs.observe(state.queue[0].job, now - state.since, loaded=state.loads_now)
            state.last, state.since, state.placed = state.queue[0], now, True
            self._measured.add((state.last.job.load, state.last.job.run))
            self._changes += 1
        del state.queue[position]
        return True

    def placed(self, slot: str, waited: float) -> None:
        """Take note that a slot's worker has got the devices for its item, after waiting so many seconds for them."""
        self._slots[slot].placed = True
        self._slots[slot].since += waited

    def released(self, slot: str) -> None:
        """Take note that a slot's worker has dropped what it had loaded."""
        self._slots[slot].last = None
        self._slots[slot].releasing = False
        self._changes += 1

    def decide(self, now: float) -> list[Start | Release]:
        """Return what the workers are to be told at the time ``now``, in seconds. Asking again changes nothing."""
        orders: list[Start | Release] = []
        for slot in self._slots.values():
            if slot.next is not None and slot.open:
                self._give(slot, Start(slot.name, slot.next), now, orders)
                slot.next = None
            self._go_on(slot, now, orders)
        while True:
            for slot in self._slots.values():
                # Devices of others are free only once nothing is left on them.
                if slot.depth == 1 and slot.open and not slot.queue and slot.borrowed and not self._keeps(slot):
                    self._release(slot, now, orders)
            choice = self._choose(now)
            if choice is None:
                break
            load, (name, *borrowed) = choice
            slot = self._slots[name]
            self._start(slot, load, tuple(borrowed), now, orders)
            self._go_on(slot, now, orders)
        for slot in self._idle():
            if slot.depth == 1 and slot.last is not None and not self._keeps(slot):
                self._release(slot, now, orders)
        return orders

    def seconds_left(self, now: float) -> float:
        """Forecast how long it takes until everything is done, in seconds."""
        return Forecast(self._state(now)).run().end - now

    def _go_on(self, slot: _Slot, now: float, orders: list[Start | Release]) -> None:
        """Give a worker more of what it has loaded."""
        while slot.open and (load := slot.load) in self._pending:
            assert load is not None
            borrowed = slot.queue[-1].borrowed if slot.queue else slot.last.borrowed if slot.last else ()
            self._start(slot, load, borrowed, now, orders)

    def _start(
        self, slot: _Slot, load: str, borrowed: tuple[str, ...], now: float, orders: list[Start | Release]
    ) -> None:
        waiting = self._pending[load]
        others = {start.job.run for other in self._slots.values() if other is not slot for start in other.queue[:1]
                  if start.job.load == load and (load, start.job.run) not in self._measured}  # fmt: skip
        job = max(waiting, key=lambda job: (job.run not in others, self.costs.seconds(job), -job.index))
        waiting.remove(job)
        if not waiting:
            del self._pending[load]
        self._give(slot, Start(slot.name, job, borrowed), now, orders)

    def _give(self, slot: _Slot, start: Start, now: float, orders: list[Start | Release]) -> None:
        if not slot.queue:
            slot.since = now
            slot.placed = slot.last is not None and slot.last.job.load == start.job.load
        slot.queue.append(start)
        orders.append(start)

    def _release(self, slot: _Slot, now: float, orders: list[Start | Release]) -> None:
        slot.releasing, slot.since = True, now
        orders.append(Release(slot.name))

    def _keeps(self, slot: _Slot) -> bool:
        """Tell whether an idle slot keeps what it has loaded, for an item that others may lose."""
        return not self._pending and any(other.queue and other.load == slot.load for other in self._slots.values())

    def _idle(self) -> list[_Slot]:
        """Return the slots that could be given something else than what they have loaded."""
        lent = {name for slot in self._slots.values() for name in slot.borrowed}
        return [slot for slot in self._slots.values() if slot.open and slot.name not in lent]

    def _choose(self, now: float) -> Candidate | None:
        """Return what is to be loaded next, and where; None for nothing."""
        idle, soon = self._idle(), self._soon_idle(now)
        overdue = tuple(item.slot for item in self.running(now) if item.overdue)
        state = self._changes, tuple(slot.name for slot in [*idle, *soon]), overdue
        if not self._pending or not idle or state == self._waiting:
            return None
        longest = max(self._pending, key=self._chain)
        options = [at for load in self._pending for at in self._candidates(load, idle, soon, at_home=load == longest)]
        held = {slot.load for slot in self._slots.values() if slot.queue and slot.name not in overdue}
        largest = max((self.costs.devices(load) for load, _ in options if load not in held), default=1)
        allowed = [option for option in options if self.costs.devices(option.load) >= largest]
        best = Forecast(self._state(now, without=overdue)).best(allowed, may_wait=largest == 1 and self.busy)
        if best is None or any(slot.name in best.slots for slot in soon):
            self._waiting = state
            return None
        return best

    def _soon_idle(self, now: float) -> list[_Slot]:
        """Return the slots that will be idle, with nothing loaded, once their workers have answered."""
        releasing = [slot for slot in self._slots.values() if slot.releasing and now - slot.since <= _RELEASE_SECONDS]
        names = {name for slot in releasing for name in (slot.name, *slot.borrowed)}
        return [slot for slot in self._slots.values() if slot.name in names]

    def _candidates(self, load: str, idle: Sequence[_Slot], soon: Sequence[_Slot], *, at_home: bool) -> list[Candidate]:
        """Return where something can be loaded: of hosts with the same room, the first one.

        ``idle`` and ``soon`` are the slots that are idle, or will be; the session's own host comes first or last.
        """
        others, empty = self.costs.devices(load) - 1, {slot.name for slot in soon}
        names = {slot.name for slot in idle} | empty
        found: dict[tuple[bool, bool, int], Candidate] = {}
        for slot in [*idle, *soon]:
            own = slot.borrowed
            lenders = [
                lender.name
                for lender in self._slots.values()
                if lender is not slot and lender.host == slot.host and not lender.queue
                and (lender.last is None or lender.name in empty) and (lender.name in names or lender.name in own)
            ]  # fmt: skip
            if len(lenders) >= others:
                lenders.sort(key=empty.__contains__)
                room = (slot.host == self._home) != at_home, slot.last is None or slot.name in empty, len(lenders)
                found.setdefault(room, Candidate(load, (slot.name, *lenders[:others])))
        return [found[room] for room in sorted(found)]

    def _chain(self, load: str) -> float:
        """Return how long it takes to load something that is pending and to make the longest item of it."""
        return self.costs.load_seconds(load) + max(map(self.costs.seconds, self._pending[load]))

    def _state(self, now: float, without: Sequence[str] = ()) -> ScheduleState:
        """Return what is known at the time ``now``, for a forecast; a release takes no time there.

        Args:
            now: in seconds.
            without: slots of which it is unknown when they end what they run, so that they are left out.
        """
        idle = [slot.name for slot in self._idle()]
        for slot in self._slots.values():
            if slot.releasing:
                idle += [slot.name, *sorted(slot.borrowed)]
        loads = {*self._pending, *(slot.load for slot in self._slots.values() if slot.load is not None)}
        late = {item.slot: item.seconds for item in self.running(now) if item.overdue}
        return ScheduleState(
            now=now,
            devices={load: self.costs.devices(load) for load in loads},
            load_seconds={load: self.costs.load_seconds(load) for load in loads},
            pending={load: sorted(map(self.costs.seconds, jobs)) for load, jobs in self._pending.items()},
            hosts={slot.name: slot.host for slot in self._slots.values()},
            home=self._home,
            idle=idle,
            running={
                slot.name: (
                    now + late[slot.name] if slot.name in late else max(now, slot.since + self._queue_seconds(slot)),
                    slot.load,
                    tuple(sorted(slot.borrowed)),
                )
                for slot in self._slots.values()
                if slot.queue and slot.name not in {*idle, *without} and slot.load is not None
            },
        )

    def _queue_seconds(self, slot: _Slot) -> float:
        return sum(self._item_seconds(slot, at) for at in range(len(slot.queue)))

    def _item_seconds(self, slot: _Slot, at: int) -> float:
        """Return what an item of a slot's queue should take, with the load that it begins with."""
        job, before = slot.queue[at].job, slot.queue[at - 1] if at else slot.last
        loaded = before is not None and before.job.load == job.load
        return self.costs.seconds(job) + (0.0 if loaded else self.costs.load_seconds(job.load))
