"""Leases of devices, host-wide: two sessions, or two users, never compute on one GPU at the same time.

A lease is a held lock (flock) on a file named after the device's UUID, so the system frees it however its process ends.
Who wants k devices takes a ticket, a locked file too, and waits until all k are free at once; nobody holds some while
waiting for others, so there is no deadlock. Every decision is taken under one more lock and in the order of the
tickets: whoever came earlier gets what is free first, and keeps others from it even while it does not suffice yet. So a
request for many devices is served in the end, however many small ones come after it.

Example::

    with acquire(devices, 2, Waiting(lease_directory(os.environ), owner=describe_owner())) as lease:
        compute_on(lease.devices)

The files are plain locks and not read by :mod:`filelock`: they also say who holds them, which has to be written by the
process that holds the lock, on the descriptor that is locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.errors import ConfigurationError, EvaluationError

DIRECTORY_VARIABLE = "PROOFPACK_LEASE_DIR"
_NAME = "pytest-proofpack-leases"
_QUEUE = "queue.lock"
_TICKET = re.compile(r"ticket-(\d{1,18})-[0-9a-f]{16}\.lock")
_MAX_TICKETS = 4096
_MAX_CANDIDATES = 256
_READ_LIMIT = 32 * 1024
_OWNER_LIMIT = 200
_UNPRINTABLE = re.compile(r"[^ -~]+")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,80}")


@dataclass(frozen=True)
class Waiting:
    """How to wait for devices.

    Attributes:
        directory: where the lock files are, see :func:`lease_directory`.
        owner: one line about who asks, for others to read; see :func:`describe_owner`.
        timeout: seconds after which to give up; None waits as long as it takes.
        say: is told one line whenever those who are waited for change.
        pause: seconds between two looks.
    """

    directory: Path
    owner: str
    timeout: float | None = None
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
    order = sorted(candidates, key=lambda device: device.uuid not in preferred)  # stable: liked best first
    deadline = None if waiting.timeout is None else time.monotonic() + waiting.timeout
    with contextlib.ExitStack() as stack:
        folder = _Folder(waiting.directory)
        stack.callback(folder.close)
        ticket: _Ticket | None = None
        told = ""
        while True:
            with folder.queue(deadline) as entered:
                if entered:
                    if ticket is None:
                        ticket = folder.take_ticket(order, count, waiting.owner)
                        stack.callback(folder.drop_ticket, ticket)
                    lease, blockers = _try(folder, ticket, order)
                    if lease is not None:
                        folder.drop_ticket(ticket)
                        return lease
                else:
                    blockers = "others who are looking for devices"
            if blockers != told:
                told = blockers
                waiting.say(f"waiting for {count} of {len(order)} devices: {blockers}")
            if deadline is not None and time.monotonic() >= deadline:
                raise EvaluationError(
                    f"{count} of {len(order)} devices were not free within {waiting.timeout:g} s: {blockers}. Wait for "
                    f"them, or use other devices ({waiting.directory} holds the locks)."
                )
            time.sleep(waiting.pause)


def lease_directory(environment: Mapping[str, str]) -> Path:
    """Return the directory that all sessions of this host share: the system's own, whatever TMPDIR a job was given."""
    named = environment.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    common = Path("/tmp")  # noqa: S108 - has to be the same for all users; see _Folder for what makes it safe
    return (common if common.is_dir() else Path(tempfile.gettempdir())) / _NAME


def describe_owner() -> str:
    """Return process, user and command in one line."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = str(os.getuid())
    return _printable(f"process {os.getpid()} of {user}: {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}")


@dataclass(frozen=True)
class _Ticket:
    """A request that waits: its number in the queue, its file, and what it asks for."""

    number: int
    file: str
    descriptor: int
    count: int
    uuids: tuple[str, ...]
    owner: str


def _try(folder: _Folder, mine: _Ticket, order: Sequence[Device]) -> tuple[Lease | None, str]:
    """Take my devices if it is my turn; else say who is in the way. The queue is locked."""
    earlier = folder.waiting_before(mine)
    free: dict[str, int] = {}
    holders: dict[str, str] = {}
    taken: tuple[str, ...] = ()
    try:
        for uuid in sorted(mine.uuids):
            descriptor = folder.lock_device(uuid)
            if isinstance(descriptor, int):
                free[uuid] = descriptor
            else:
                holders[uuid] = descriptor
        mine_now = _allot(list(free), [*earlier, mine])
        if len(mine_now) < mine.count:
            return None, _blockers(mine, holders, earlier)
        taken = mine_now
    finally:
        for uuid in free.keys() - set(taken):
            os.close(free[uuid])
    locks = contextlib.ExitStack()
    for uuid in taken:
        locks.callback(_unlock, free[uuid])
        _write(free[uuid], mine.owner)
    by_uuid = {device.uuid: device for device in order}
    return Lease(tuple(by_uuid[uuid] for uuid in taken), locks), ""


def _allot(free: Sequence[str], tickets: Sequence[_Ticket]) -> tuple[str, ...]:
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


def _blockers(mine: _Ticket, holders: Mapping[str, str], earlier: Iterable[_Ticket]) -> str:
    """Say in one line who holds what I could take, and who came earlier."""
    held = [f"{uuid} is held by {holders[uuid]}" for uuid in mine.uuids if uuid in holders]
    ahead = [
        f"{ticket.count} go first to {ticket.owner}"
        for ticket in earlier
        if not set(ticket.uuids).isdisjoint(mine.uuids)
    ]
    return "; ".join([*held, *ahead]) or "they are being given back"


class _Folder:
    """The directory of locks, opened once; files are opened relative to it, so nobody can put another in its place."""

    def __init__(self, directory: Path) -> None:
        """Open the directory, making it if it is missing.

        Raises:
            ConfigurationError: it cannot be made or opened, or others could replace the files in it.
        """
        self._path = directory
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                directory.chmod(0o1777)  # all users, whatever the umask; sticky: nobody removes another's files
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(
                f"{directory}: cannot hold the locks of devices ({error.strerror or error}). Name another directory in "
                f"{DIRECTORY_VARIABLE}, the same for all who share this host."
            ) from error
        facts = os.fstat(self._descriptor)
        foreign = facts.st_uid not in {0, os.getuid()}
        if (foreign or facts.st_mode & stat.S_IWOTH) and not facts.st_mode & stat.S_ISVTX:
            os.close(self._descriptor)
            raise ConfigurationError(
                f"{directory}: others could remove locks of devices from it, because it is not sticky. Remove it, or "
                f"make it so (chmod 1777), or name another directory in {DIRECTORY_VARIABLE}."
            )

    def close(self) -> None:
        """Close the directory; locks that are held stay."""
        os.close(self._descriptor)

    @contextlib.contextmanager
    def queue(self, deadline: float | None) -> Iterator[bool]:
        """Lock the queue while the body decides; yield whether that was possible before the deadline."""
        descriptor = self._open(_QUEUE)
        try:
            # Held for moments only, and tried now and then, not waited for: a stopped process may hold it.
            while not (locked := _locked(descriptor)) and (deadline is None or time.monotonic() < deadline):
                time.sleep(0.02)
            yield locked
        finally:
            os.close(descriptor)

    def take_ticket(self, order: Sequence[Device], count: int, owner: str) -> _Ticket:
        """Join the queue at its end."""
        last = max((number for number, _ in self._tickets()), default=0)
        file = f"ticket-{last + 1}-{os.urandom(8).hex()}.lock"
        uuids = tuple(device.uuid for device in order)
        descriptor = self._open(file)
        _locked(descriptor)
        _write(descriptor, json.dumps({"count": count, "uuids": uuids, "owner": owner}))
        return _Ticket(last + 1, file, descriptor, count, uuids, owner)

    def drop_ticket(self, ticket: _Ticket) -> None:
        """Leave the queue; again does nothing."""
        with contextlib.suppress(OSError):
            os.unlink(ticket.file, dir_fd=self._descriptor)
            os.close(ticket.descriptor)

    def waiting_before(self, mine: _Ticket) -> list[_Ticket]:
        """Return who came before me and still waits; files of those who are gone are removed, as far as we may."""
        found = []
        for number, file in self._tickets():
            if number >= mine.number:
                break
            with contextlib.suppress(FileNotFoundError):
                descriptor = self._open(file, create=False)
                try:
                    if _locked(descriptor):
                        with contextlib.suppress(PermissionError):  # another user's
                            os.unlink(file, dir_fd=self._descriptor)
                    elif (ticket := _parsed(number, file, _read(descriptor))) is not None:
                        found.append(ticket)
                finally:
                    os.close(descriptor)
        return found

    def lock_device(self, uuid: str) -> int | str:
        """Return the locked descriptor of a device's file, or who holds it."""
        name = uuid if _PLAIN.fullmatch(uuid) else hashlib.sha256(uuid.encode()).hexdigest()
        descriptor = self._open(f"device-{name}.lock")
        if _locked(descriptor):
            return descriptor
        try:
            return _printable(_read(descriptor)) or "a process that does not say its name"
        finally:
            os.close(descriptor)

    def _tickets(self) -> list[tuple[int, str]]:
        """Return number and file of every ticket, in the order of the numbers.

        Raises:
            ConfigurationError: there are more than can be.
        """
        names = os.listdir(self._descriptor)  # noqa: PTH208 - of a descriptor
        matches = [match for name in names if (match := _TICKET.fullmatch(name))]
        if len(matches) > _MAX_TICKETS:
            raise ConfigurationError(f"{self._path}: holds {len(matches)} tickets, far too many. Remove them.")
        return sorted((int(match[1]), match[0]) for match in matches)

    def _open(self, name: str, *, create: bool = True) -> int:
        """Open a lock file, made for all users if it is missing; never through a link, never a pipe or device.

        Without O_CREAT where the file is there: in a sticky directory, Linux refuses that for files of other users.

        Raises:
            ConfigurationError: it is no plain file, or may not be opened.
            FileNotFoundError: it is missing and is not to be made.
        """
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        while True:
            try:
                descriptor = os.open(name, flags, dir_fd=self._descriptor)
                break
            except FileNotFoundError:
                if not create:
                    raise
                with contextlib.suppress(FileExistsError):
                    made = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._descriptor)
                    os.fchmod(made, 0o666)
                    os.close(made)
            except OSError as error:
                raise self._unusable(name, error.strerror or str(error)) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._unusable(name, "not a plain file")
        return descriptor

    def _unusable(self, name: str, problem: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self._path / name}: cannot be used as a lock ({problem}). Remove it, or name another directory in "
            f"{DIRECTORY_VARIABLE}."
        )


def _locked(descriptor: int) -> bool:
    """Lock a file if nobody else has, and tell whether it is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(descriptor: int) -> None:
    """Give up a device: say so in its file, and unlock it even if a child process has inherited the descriptor."""
    os.ftruncate(descriptor, 0)
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, _READ_LIMIT, 0).decode(errors="replace")


def _parsed(number: int, file: str, text: str) -> _Ticket | None:
    """Return what another process has written into its ticket; None if that is nothing we understand."""
    try:
        document = json.loads(text)
        count, uuids, owner = document["count"], document["uuids"], document["owner"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (isinstance(count, int) and isinstance(uuids, list) and all(isinstance(uuid, str) for uuid in uuids)):
        return None
    if not 0 < count <= len(uuids) <= _MAX_CANDIDATES:
        return None
    return _Ticket(number, file, -1, count, tuple(uuids), _printable(str(owner)))


def _printable(text: str) -> str:
    """Return what others wrote such that a terminal can show it, in one line of bounded length."""
    return _UNPRINTABLE.sub("?", text)[:_OWNER_LIMIT]
