"""The directory of lock files that all sessions and users of a host share: who holds a device, and who waits for some.

The files are plain locks (flock), which the system frees however a process ends, and not those of :mod:`filelock`: they
also say who holds them, which has to be written by the process that holds the lock, on the descriptor that is locked.
What others may have put into the directory is not trusted: no link is followed, and every text is bounded and checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_proofpack.errors import ConfigurationError

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
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def lease_directory(environment: Mapping[str, str]) -> Path:
    """Return the directory that all sessions of this host share: the system's own, whatever TMPDIR a job was given."""
    named = environment.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    common = Path("/tmp")  # noqa: S108 - has to be the same for all users; see LockFolder for what makes it safe
    return (common if common.is_dir() else Path(tempfile.gettempdir())) / _NAME


def one_line(text: str) -> str:
    """Return what others wrote such that a terminal can show it, in one line of bounded length."""
    return _UNPRINTABLE.sub("?", text)[:_OWNER_LIMIT]


@dataclass(frozen=True)
class Ticket:
    """A request that waits.

    Attributes:
        number: its place in the queue.
        file: the name of its file.
        descriptor: of that file, locked; -1 if it is another process's.
        count: how many devices it asks for.
        uuids: the devices to choose from, those that are liked best first.
        owner: one line about who asks.
    """

    number: int
    file: str
    descriptor: int
    count: int
    uuids: tuple[str, ...]
    owner: str


@dataclass(frozen=True)
class DeviceLock:
    """A device that nobody else has, until it is unlocked."""

    uuid: str
    descriptor: int

    def unlock(self) -> None:
        """Give the device back: say so in its file, and unlock it even if a child process inherited the descriptor."""
        with contextlib.suppress(OSError):  # a name that stays there misleads nobody: without a lock it is not read
            os.ftruncate(self.descriptor, 0)
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        os.close(self.descriptor)


class LockFolder:
    """The directory, opened once; files are opened relative to it, so nobody can put another in its place."""

    def __init__(self, directory: Path) -> None:
        """Open the directory, making it if it is missing.

        Raises:
            ConfigurationError: it cannot be made or opened, or others could replace the files in it.
        """
        self._path = directory
        with self._refusals(""):
            directory.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                directory.chmod(0o1777)  # all users, whatever the umask; sticky: nobody removes another's files
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
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
    def queue(self, patience: float) -> Iterator[bool]:
        """Lock the queue while the body decides; yield whether that was possible within so many seconds.

        Raises:
            ConfigurationError: its file cannot be used.
        """
        descriptor = self._open(_QUEUE)
        deadline = time.monotonic() + patience
        try:
            # Held for moments only, and tried now and then, not waited for: a stopped process may hold it.
            while not (locked := self._locked(descriptor, _QUEUE)) and time.monotonic() < deadline:
                time.sleep(0.02)
            yield locked
        finally:
            os.close(descriptor)

    def take_ticket(self, uuids: Sequence[str], count: int, owner: str) -> Ticket:
        """Join the queue at its end.

        Raises:
            ConfigurationError: the ticket cannot be written.
        """
        last = max((number for number, _ in self._tickets()), default=0)
        file = f"ticket-{last + 1}-{os.urandom(8).hex()}.lock"
        ticket = Ticket(last + 1, file, self._open(file), count, tuple(uuids), owner)
        try:
            self._locked(ticket.descriptor, file)
            with self._refusals(file):
                _write(ticket.descriptor, json.dumps({"count": count, "uuids": ticket.uuids, "owner": owner}))
        except ConfigurationError:
            self.drop_ticket(ticket)
            raise
        return ticket

    def drop_ticket(self, ticket: Ticket) -> None:
        """Leave the queue; again does nothing."""
        with contextlib.suppress(OSError):
            os.unlink(ticket.file, dir_fd=self._descriptor)
            os.close(ticket.descriptor)

    def waiting_before(self, mine: Ticket) -> list[Ticket]:
        """Return who came before me and still waits; files of those who are gone are removed, as far as we may.

        Raises:
            ConfigurationError: a file among them cannot be used.
        """
        found = []
        for number, file in self._tickets():
            if number >= mine.number:
                break
            descriptor = self._open_existing(file)
            if descriptor is None:
                continue
            try:
                if self._locked(descriptor, file):
                    with contextlib.suppress(OSError):  # another user's, or gone already
                        os.unlink(file, dir_fd=self._descriptor)
                elif (ticket := _parsed(number, file, self._read(descriptor, file))) is not None:
                    found.append(ticket)
            finally:
                os.close(descriptor)
        return found

    def lock_device(self, uuid: str) -> DeviceLock | str:
        """Return the lock of a device, or one line about who holds it.

        Raises:
            ConfigurationError: its file cannot be used.
        """
        file = _device_file(uuid)
        descriptor, locked = self._open(file), False
        try:
            locked = self._locked(descriptor, file)
            if locked:
                return DeviceLock(uuid, descriptor)
            return one_line(self._read(descriptor, file)) or "a process that does not say its name"
        finally:
            if not locked:
                os.close(descriptor)

    def sign(self, lock: DeviceLock, owner: str) -> None:
        """Say who holds a device.

        Raises:
            ConfigurationError: that cannot be written.
        """
        with self._refusals(_device_file(lock.uuid)):
            _write(lock.descriptor, owner)

    def _tickets(self) -> list[tuple[int, str]]:
        """Return number and file of every ticket, in the order of the numbers.

        Raises:
            ConfigurationError: there are more than can be, or the directory cannot be listed.
        """
        with self._refusals(""):
            names = os.listdir(self._descriptor)  # noqa: PTH208 - of a descriptor
        matches = [match for name in names if (match := _TICKET.fullmatch(name))]
        if len(matches) > _MAX_TICKETS:
            raise ConfigurationError(f"{self._path}: holds {len(matches)} tickets, far too many. Remove them.")
        return sorted((int(match[1]), match[0]) for match in matches)

    def _open(self, name: str) -> int:
        """Open a lock file, made for all users if it is missing.

        Raises:
            ConfigurationError: it is no plain file, or may not be opened or made.
        """
        while (descriptor := self._open_existing(name)) is None:
            with self._refusals(name), contextlib.suppress(FileExistsError):
                made = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._descriptor)
                try:
                    os.fchmod(made, 0o666)
                finally:
                    os.close(made)
        return descriptor

    def _open_existing(self, name: str) -> int | None:
        """Open a lock file that is there, never through a link, never a pipe or device; None if it is missing.

        Without O_CREAT: in a sticky directory, Linux refuses that for files of other users.

        Raises:
            ConfigurationError: as :meth:`_open`.
        """
        with self._refusals(name):
            try:
                descriptor = os.open(name, _FLAGS, dir_fd=self._descriptor)
            except FileNotFoundError:
                return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._unusable(name, "not a plain file")
        return descriptor

    def _locked(self, descriptor: int, name: str) -> bool:
        """Lock a file if nobody else has, and tell whether it is ours now."""
        with self._refusals(name):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _read(self, descriptor: int, name: str) -> str:
        with self._refusals(name):
            return os.pread(descriptor, _READ_LIMIT, 0).decode(errors="replace")

    @contextlib.contextmanager
    def _refusals(self, name: str) -> Iterator[None]:
        """Tell in one line of what the system refuses to do with the directory or a file in it."""
        try:
            yield
        except OSError as error:
            raise self._unusable(name, error.strerror or str(error)) from error

    def _unusable(self, name: str, problem: str) -> ConfigurationError:
        if not name:
            return ConfigurationError(
                f"{self._path}: cannot hold the locks of devices ({problem}). Name another directory in "
                f"{DIRECTORY_VARIABLE}, the same for all who share this host."
            )
        return ConfigurationError(
            f"{self._path / name}: cannot be used as a lock ({problem}). Put that right, or name another directory in "
            f"{DIRECTORY_VARIABLE}, the same for all who share this host."
        )


def _device_file(uuid: str) -> str:
    name = uuid if _PLAIN.fullmatch(uuid) else hashlib.sha256(uuid.encode()).hexdigest()
    return f"device-{name}.lock"


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _parsed(number: int, file: str, text: str) -> Ticket | None:
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
    return Ticket(number, file, -1, count, tuple(uuids), one_line(str(owner)))
