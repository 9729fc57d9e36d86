"""Leases of devices, host-wide: two sessions, or two users, never compute on one GPU at the same time.

A lease is a held lock on a file named after the device's UUID, so the system frees it however its process ends. Who
wants k devices takes a ticket, a locked file too, and waits until all k are free at once; nobody holds some while
waiting for others, so there is no deadlock. Every decision is taken under one more lock and in the order of the
tickets: whoever came earlier gets what is free first, and keeps others from it even while it does not suffice yet. So a
request for many devices is served in the end, however many small ones come after it.

Example::

    waiting = Waiting(lease_directory(os.environ), describe_owner(sys.argv), timeout=60.0)
    with acquire(devices, 2, waiting) as lease:
        compute_on(lease.devices)

What lies in the directory is the business of :mod:`pytest_proofpack.devices.lock_folder`.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.lock_folder import DeviceLock, LockFolder, Ticket, one_line
from pytest_proofpack.errors import ConfigurationError, EvaluationError

_QUEUE_PATIENCE = 1.0
"""Seconds after which somebody who keeps the queue locked, though it takes moments only, is told of."""


@dataclass(frozen=True)
class Waiting:
    """How to wait for devices.

    Attributes:
        directory: where the lock files are, see :func:`pytest_proofpack.devices.lock_folder.lease_directory`.
        owner: one line about who asks, for others to read; see :func:`describe_owner`.
        timeout: seconds after which to give up; with 0 one look decides.
        say: is told one line whenever those who are waited for change.
        pause: seconds between two looks.
    """

    directory: Path
    owner: str
    timeout: float
    say: Callable[[str], None] = lambda _: None
    pause: float = 0.5


@dataclass
class Lease:
    """Devices that nobody else has until :meth:`release`, or until this process ends."""

    devices: tuple[Device, ...]
    _locks: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    def release(self) -> None:
        """Give the devices back; again does nothing."""
        self._locks.close()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire(candidates: Sequence[Device], count: int, waiting: Waiting, *, preferred: Sequence[str] = ()) -> Lease:
    """Lease ``count`` of the candidates: all together, as soon as nobody who came earlier waits for them.

    Args:
        candidates: devices to choose from, those that are liked best first.
        count: how many.
        waiting: how to wait.
        preferred: UUIDs to take before others, for a worker that comes back to its device.

    Raises:
        ConfigurationError: there are fewer candidates than ``count``, or the directory cannot be used.
        EvaluationError: they were not free in time; says who holds them.
    """
    if len(candidates) < count:
        raise ConfigurationError(f"{count} devices are needed together, but only {len(candidates)} can be used.")
    devices = {device.uuid: device for device in candidates}
    uuids = sorted(devices, key=lambda uuid: uuid not in preferred)  # stable: liked best first
    deadline, told = time.monotonic() + waiting.timeout, ""
    with (
        contextlib.closing(LockFolder(waiting.directory)) as folder,
        contextlib.closing(_Request(folder, uuids, count, waiting.owner)) as request,
    ):
        while True:
            left = max(0.0, deadline - time.monotonic())
            locks, blockers = request.look(min(left, _QUEUE_PATIENCE))
            if locks is not None:
                return Lease(tuple(devices[lock.uuid] for lock in locks), _unlocking(locks))
            if left == 0:
                raise EvaluationError(_not_free(count, len(uuids), waiting, blockers))
            if blockers != told:
                told = blockers
                waiting.say(f"waiting up to {waiting.timeout:g} s for {count} of {len(uuids)} devices: {blockers}")
            time.sleep(min(left, waiting.pause))


def describe_owner(command: Sequence[str], worker: str | None = None) -> str:
    """Return process, user and command in one line, for those who wait for its devices.

    Args:
        command: what the user typed: program and arguments.
        worker: the name of this process in its session, if it is a worker of one.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = str(os.getuid())
    process = f"process {os.getpid()}" + (f" ({worker})" if worker is not None else "")
    program, *arguments = command or ("python",)
    return one_line(f"{process} of {user}: {' '.join([Path(program).name, *arguments])}")


class _Request:
    """A wish for so many of these devices, which keeps its place in the queue once it has one."""

    def __init__(self, folder: LockFolder, uuids: Sequence[str], count: int, owner: str) -> None:
        self._folder = folder
        self._uuids = uuids
        self._count = count
        self._owner = owner
        self._ticket: Ticket | None = None

    def look(self, patience: float) -> tuple[list[DeviceLock] | None, str]:
        """Take the devices if it is my turn; else say who is in the way.

        Args:
            patience: seconds to wait for others who are just looking, too.

        Raises:
            ConfigurationError: the directory, or a file in it, cannot be used.
        """
        with self._folder.queue(patience) as entered:
            if not entered:
                return None, "others who are looking for devices"
            if self._ticket is None:
                self._ticket = self._folder.take_ticket(self._uuids, self._count, self._owner)
            locks, blockers = _try(self._folder, self._ticket)
            if locks is not None:
                self.close()  # before others may look
            return locks, blockers

    def close(self) -> None:
        """Leave the queue; again does nothing."""
        if self._ticket is not None:
            self._folder.drop_ticket(self._ticket)
            self._ticket = None


def _try(folder: LockFolder, mine: Ticket) -> tuple[list[DeviceLock] | None, str]:
    """Take my devices if it is my turn; else say who is in the way. The queue is locked."""
    earlier = folder.waiting_before(mine)
    holders: dict[str, str] = {}
    free: dict[str, DeviceLock] = {}
    with contextlib.ExitStack() as unused:
        for uuid in sorted(mine.uuids):
            found = folder.lock_device(uuid)
            if isinstance(found, DeviceLock):
                free[uuid] = found
                unused.callback(found.unlock)
            else:
                holders[uuid] = found
        taken = [free[uuid] for uuid in _allot(list(free), [*earlier, mine])]
        if len(taken) < mine.count:
            return None, _blockers(mine, holders, earlier)
        for lock in taken:
            folder.sign(lock, mine.owner)
        unused.pop_all()
    for lock in free.values():
        if lock not in taken:
            lock.unlock()
    return taken, ""


def _unlocking(locks: Iterable[DeviceLock]) -> contextlib.ExitStack:
    """Return what unlocks them when it is closed."""
    stack = contextlib.ExitStack()
    for lock in locks:
        stack.callback(lock.unlock)
    return stack


def _allot(free: Sequence[str], tickets: Sequence[Ticket]) -> tuple[str, ...]:
    """Give out what is free in the order of the tickets, and return what the last one gets.

    Each takes what it likes best. One that is not satisfied yet still keeps what there is from those behind it.
    """
    left = dict.fromkeys(free)
    chosen: list[str] = []
    for ticket in tickets:
        chosen = [uuid for uuid in ticket.uuids if uuid in left][: ticket.count]
        for uuid in chosen:
            del left[uuid]
    return tuple(chosen)


def _blockers(mine: Ticket, holders: Mapping[str, str], earlier: Iterable[Ticket]) -> str:
    """Say in one line who holds what I could take, and who came earlier."""
    by_holder: defaultdict[str, list[str]] = defaultdict(list)
    for uuid in mine.uuids:
        if uuid in holders:
            by_holder[holders[uuid]].append(uuid)
    held = [
        f"{' and '.join(uuids)} {'is' if len(uuids) == 1 else 'are'} held by {holder}"
        for holder, uuids in by_holder.items()
    ]
    ahead = [
        f"{ticket.count} go first to {ticket.owner}"
        for ticket in earlier
        if not set(ticket.uuids).isdisjoint(mine.uuids)
    ]
    return "; ".join([*held, *ahead]) or "they are being given back"


def _not_free(count: int, candidates: int, waiting: Waiting, blockers: str) -> str:
    when = f"were not free within {waiting.timeout:g} s" if waiting.timeout else "are not free"
    return (
        f"{count} of {candidates} devices {when}: {blockers}. Wait for them, use other devices, or wait longer with "
        f"--proofpack-device-timeout ({waiting.directory} holds the locks)."
    )
