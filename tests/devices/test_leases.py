"""Leases of devices between real processes: they exclude each other, keep their order, and end with their owner."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting, acquire, describe_owner
from pytest_proofpack.devices.lock_folder import DeviceLock, LockFolder, lease_directory
from pytest_proofpack.errors import ConfigurationError, EvaluationError

PATIENCE = 120.0
DEVICES = tuple(Device(index, f"GPU-{index}", "fake", 2**30, "cuda", f"GPU-{index}") for index in range(4))
HOLDER = """
import json, os, sys
from pathlib import Path
from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting, acquire
directory, name, uuids, count = sys.argv[1], sys.argv[2], sys.argv[3].split(","), int(sys.argv[4])
os.setuid(int(sys.argv[5]))  # libraries are loaded: another user may not reach them
tell = lambda **facts: print(json.dumps(facts), flush=True)
devices = [Device(0, uuid, "fake", 1, "cuda", uuid) for uuid in uuids]
waiting = Waiting(Path(directory), name, timeout=120, say=lambda line: tell(waits=line), pause=0.02)
for line in sys.stdin:
    with acquire(devices, count, waiting) as lease:
        tell(has=[device.uuid for device in lease.devices])
        if line.strip() != "pass":
            sys.stdin.readline()
    tell(has=[])
"""


class Holder:
    """A process that leases devices when it is told to, and says what happens to it."""

    def __init__(self, directory: Path, name: str, uuids: Sequence[str], count: int, user: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(directory), name, ",".join(uuids), str(count), str(user)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        heard: dict[str, Any] = json.loads(self.process.stdout.readline())
        return heard

    def take(self) -> list[str]:
        self.say("take")
        return self.has()

    def has(self) -> list[str]:
        """Wait until it says what it has."""
        while "has" not in (heard := self.hear()):
            pass
        return list(heard["has"])


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    started: list[Holder] = []

    def start(name: str, uuids: str, count: int = 1, user: int = os.getuid()) -> Holder:
        started.append(Holder(tmp_path / "leases", name, [f"GPU-{letter}" for letter in uuids], count, user))
        return started[-1]

    yield start
    for own in started:
        own.process.kill()
        own.process.communicate()


def waiting(tmp_path: Path, timeout: float = PATIENCE, **options: Any) -> Waiting:
    return Waiting(tmp_path / "leases", "me", timeout, pause=0.02, **options)


def names(devices: Sequence[Device]) -> list[str]:
    return [device.uuid.removeprefix("GPU-") for device in devices]


def test_the_best_liked_free_devices_are_taken(tmp_path: Path) -> None:
    with acquire(DEVICES, 2, waiting(tmp_path), preferred=("GPU-3",)) as mine:
        assert names(mine.devices) == ["3", "0"]
        with acquire(DEVICES[2:], 1, waiting(tmp_path), preferred=("GPU-3",)) as other:
            assert names(other.devices) == ["2"]
    with acquire(DEVICES, 4, waiting(tmp_path)) as again:
        assert names(again.devices) == ["0", "1", "2", "3"]
    again.release()  # once more does nothing


def test_another_process_has_to_wait_and_is_told_for_whom(tmp_path: Path, holder: Callable[..., Holder]) -> None:
    first = holder("a lecture's session", "01", 2)
    assert first.take() == ["GPU-0", "GPU-1"]
    said: list[str] = []
    with pytest.raises(
        EvaluationError, match=r"1 of 2 devices were not free within 0\.3 s: GPU-0 and GPU-1 are held by a lect"
    ):
        acquire(DEVICES[:2], 1, waiting(tmp_path, 0.3, say=said.append))
    assert said == ["waiting up to 0.3 s for 1 of 2 devices: GPU-0 and GPU-1 are held by a lecture's session"]
    with acquire(DEVICES, 2, waiting(tmp_path)) as rest:
        assert names(rest.devices) == ["2", "3"]
    first.say("give back")
    with acquire(DEVICES[:2], 2, waiting(tmp_path)) as lease:
        assert names(lease.devices) == ["0", "1"]


def test_a_killed_process_gives_its_devices_and_its_place_back(tmp_path: Path, holder: Callable[..., Holder]) -> None:
    first, second = holder("first", "0"), holder("second", "0")
    assert first.take() == ["GPU-0"]
    second.say("take")
    assert "GPU-0 is held by first" in second.hear()["waits"]
    os.kill(second.process.pid, signal.SIGKILL)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(), second.process.wait()
    with acquire(DEVICES[:1], 1, waiting(tmp_path)) as lease:
        assert names(lease.devices) == ["0"]
    assert not list((tmp_path / "leases").glob("ticket-*"))


def test_many_devices_are_not_kept_away_by_later_requests_for_few(
    tmp_path: Path, holder: Callable[..., Holder]
) -> None:
    small, large, late = holder("small", "0"), holder("large", "01", 2), holder("late", "01")
    assert small.take() == ["GPU-0"]
    large.say("take")
    assert "GPU-0 is held by small" in large.hear()["waits"]
    late.say("take")  # GPU-1 is free, but large came first and waits for it
    assert "2 go first to large" in late.hear()["waits"]
    other = tmp_path / "leases"
    with acquire((*DEVICES[1:3],), 1, Waiting(other, "elsewhere", PATIENCE, pause=0.02)) as elsewhere:
        assert names(elsewhere.devices) == ["2"]
    small.say("give back")
    assert large.has() == ["GPU-0", "GPU-1"]
    large.say("give back")
    assert late.has() == ["GPU-0"]


def test_crossing_requests_exclude_each_other_and_all_are_served(tmp_path: Path, holder: Callable[..., Holder]) -> None:
    wishes = [("012", 2), ("210", 2), ("01", 1), ("210", 3)]
    holders = [holder(f"p{number}", uuids, count) for number, (uuids, count) in enumerate(wishes)]
    rounds = 12
    held: dict[str, int] = {}
    guard = threading.Lock()
    problems: list[str] = []

    def work(number: int) -> None:
        own = holders[number]
        for _ in range(rounds):
            mine = own.take()
            with guard:
                problems.extend(f"{uuid} held twice" for uuid in mine if uuid in held)
                held.update(dict.fromkeys(mine, number))
            if len(mine) != wishes[number][1]:
                problems.append(f"{mine} is not what was asked for")
            time.sleep(0.005)
            with guard:
                for uuid in mine:
                    held.pop(uuid, None)
            own.say("give back")
            assert own.has() == []

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(wishes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "some never got their devices"
    assert not problems


FORK = """
import os, signal, sys, time
from pathlib import Path
from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting, acquire
devices, waiting = [Device(0, "GPU-0", "fake", 1, "cuda")], Waiting(Path(sys.argv[1]), "parent", timeout=0)
lease = acquire(devices, 1, waiting)
child = os.fork()
if child == 0:
    time.sleep(120)
    os._exit(0)
try:
    lease.release()
    acquire(devices, 1, waiting)
finally:
    os.kill(child, signal.SIGKILL)
"""


def test_a_child_process_does_not_keep_what_its_parent_gives_back(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORK, str(tmp_path / "leases")], check=True)


def test_files_are_for_all_users_of_the_host(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        acquire(DEVICES[:1], 1, waiting(tmp_path)).release()
    finally:
        os.umask(before)
    folder = tmp_path / "leases"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_two_users_wait_for_each_other(tmp_path: Path, holder: Callable[..., Holder]) -> None:
    """In a sticky directory, where Linux may forbid opening another user's file with O_CREAT."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    other = holder("nobody's", "10", user=65534)
    with acquire(DEVICES[:1], 1, waiting(tmp_path)):
        assert other.take() == ["GPU-1"]
        with pytest.raises(EvaluationError, match="GPU-1 is held by nobody's"):
            acquire(DEVICES[1:2], 1, waiting(tmp_path, 0.1))
        other.say("give back")
        assert other.has() == []
        with acquire(DEVICES[1:2], 1, waiting(tmp_path)):
            other.say("take")
            assert "GPU-1 and GPU-0 are held by me" in other.hear()["waits"]
    assert other.has() in (["GPU-0"], ["GPU-1"])


class TestHostileFiles:
    def test_links_are_not_followed(self, tmp_path: Path) -> None:
        acquire(DEVICES[:1], 1, waiting(tmp_path)).release()
        victim = tmp_path / "victim"
        victim.write_text("precious")
        (tmp_path / "leases" / "device-GPU-1.lock").symlink_to(victim)
        with pytest.raises(ConfigurationError, match=r"device-GPU-1\.lock: cannot be used as a lock"):
            acquire(DEVICES[1:2], 1, waiting(tmp_path))
        assert victim.read_text() == "precious"
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (tmp_path / "link").symlink_to(elsewhere)
        with pytest.raises(ConfigurationError, match="cannot hold the locks of devices"):
            acquire(DEVICES, 1, Waiting(tmp_path / "link", "me", 1.0))

    def test_pipes_are_not_waited_for(self, tmp_path: Path) -> None:
        acquire(DEVICES[:1], 1, waiting(tmp_path)).release()
        os.mkfifo(tmp_path / "leases" / "device-GPU-1.lock")
        with pytest.raises(ConfigurationError, match="not a plain file"):
            acquire(DEVICES[1:2], 1, waiting(tmp_path))

    def test_a_directory_where_others_could_replace_files_is_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "open"
        folder.mkdir()
        folder.chmod(0o777)
        with pytest.raises(ConfigurationError, match="not sticky"):
            acquire(DEVICES, 1, Waiting(folder, "me", 1.0))
        folder.chmod(0o755)
        acquire(DEVICES, 1, Waiting(folder, "me", 1.0)).release()

    def test_what_others_write_is_shown_harmlessly(self, tmp_path: Path, holder: Callable[..., Holder]) -> None:
        other = holder("x" * 500 + "\x1b[2J\u202e", "0")
        other.take()
        path = tmp_path / "leases" / "device-GPU-0.lock"
        path.write_bytes(b"\x1b[31m evil\nline\xff\x00" + b"y" * 100_000)
        said: list[str] = []
        with pytest.raises(EvaluationError):
            acquire(DEVICES[:1], 1, waiting(tmp_path, 0.1, say=said.append))
        assert said[0].isascii()
        assert said[0].isprintable()
        assert len(said[0]) < 300

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", '{"count": 1}', '{"count": "1", "uuids": ["GPU-0"], "owner": ""}',
         '{"count": 9, "uuids": ["GPU-0"], "owner": ""}', '{"count": 1, "uuids": [1], "owner": ""}', "[" * 100_000],
    )  # fmt: skip
    def test_tickets_that_make_no_sense_keep_nobody_waiting(self, tmp_path: Path, text: str) -> None:
        import fcntl

        acquire(DEVICES[:1], 1, waiting(tmp_path)).release()
        path = tmp_path / "leases" / f"ticket-1-{'0' * 16}.lock"
        path.write_text(text)
        with path.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            acquire(DEVICES[:1], 1, waiting(tmp_path, 0)).release()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting, acquire
from pytest_proofpack.errors import ConfigurationError
directory = Path(sys.argv[1])
devices = [Device(0, "GPU-0", "fake", 1, "cuda")]
acquire(devices, 1, Waiting(directory, "me", 1.0)).release()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
try:
    acquire(devices, 1, Waiting(directory, "me", 1.0))
except ConfigurationError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, before)
acquire(devices, 1, Waiting(directory, "me", 1.0)).release()
print(*sorted(file.name for file in directory.iterdir()))
"""
UNWRITABLE = """
import os, sys
from pathlib import Path
from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting, acquire
from pytest_proofpack.errors import ConfigurationError
os.setuid(65534)
try:
    acquire([Device(0, "GPU-0", "fake", 1, "cuda")], 1, Waiting(Path(sys.argv[1]), "me", 1.0))
except ConfigurationError as error:
    print(error)
"""


class TestTheDirectoryCannotBeUsed:
    """Whatever the system refuses is one line that names the file and says what to do."""

    def refusal(self, directory: Path) -> str:
        with pytest.raises(ConfigurationError) as caught:
            acquire(DEVICES[:1], 1, Waiting(directory, "me", 1.0))
        return str(caught.value)

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for directory in (tmp_path / "file", tmp_path / "file" / "below"):
            line = self.refusal(directory)
            assert line.startswith(f"{directory}: cannot hold the locks of devices (")
            assert line.endswith("Name another directory in PROOFPACK_LEASE_DIR, the same for all who share this host.")

    def test_a_folder_in_place_of_a_lock(self, tmp_path: Path) -> None:
        (tmp_path / "device-GPU-0.lock").mkdir()
        assert "device-GPU-0.lock: cannot be used as a lock (Is a directory)" in self.refusal(tmp_path)
        assert not list(tmp_path.glob("ticket-*"))

    def test_it_disappears_while_somebody_waits(self, tmp_path: Path) -> None:
        directory = tmp_path / "leases"
        lease = acquire(DEVICES[:1], 1, waiting(tmp_path))

        def remove(_: str) -> None:
            for file in directory.iterdir():
                file.unlink()
            directory.rmdir()

        with pytest.raises(ConfigurationError, match=r"queue\.lock: cannot be used as a lock \(No such file"):
            acquire(DEVICES[:1], 1, waiting(tmp_path, say=remove))
        lease.release()

    def test_a_full_disk(self, tmp_path: Path) -> None:
        ran = subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(tmp_path / "leases")], capture_output=True, text=True, check=True
        )
        line, left = ran.stdout.splitlines()
        assert "cannot be used as a lock (File too large)" in line
        assert left == "device-GPU-0.lock queue.lock"

    def test_a_holders_name_that_cannot_be_written_leaves_nothing_locked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: LockFolder, __: DeviceLock, ___: str) -> None:
            raise ConfigurationError("no space left")

        monkeypatch.setattr(LockFolder, "sign", full)
        with pytest.raises(ConfigurationError, match="no space left"):
            acquire(DEVICES, 2, waiting(tmp_path))
        monkeypatch.undo()
        with acquire(DEVICES, 4, waiting(tmp_path, 0.0)) as lease:
            assert len(lease.devices) == 4

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
    @pytest.mark.parametrize("mode", [0o755, 0o700])
    def test_somebody_elses(self, tmp_path: Path, mode: int) -> None:
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(0o755)
        (tmp_path / "leases").mkdir()
        (tmp_path / "leases").chmod(mode)
        ran = subprocess.run(
            [sys.executable, "-c", UNWRITABLE, str(tmp_path / "leases")], capture_output=True, text=True, check=True
        )
        (line,) = ran.stdout.splitlines()
        assert "(Permission denied)" in line


def test_too_few_devices_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="3 devices are needed together, but only 2"):
        acquire(DEVICES[:2], 3, waiting(tmp_path))
    assert not (tmp_path / "leases").exists()


def test_a_stopped_process_in_the_queue_does_not_hang_others(tmp_path: Path) -> None:
    import fcntl

    acquire(DEVICES[:1], 1, waiting(tmp_path)).release()
    with (tmp_path / "leases" / "queue.lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(EvaluationError, match="others who are looking for devices"):
            acquire(DEVICES[:1], 1, waiting(tmp_path, 0.2))


def test_any_name_of_a_device_makes_a_file(tmp_path: Path) -> None:
    odd = [Device(0, uuid, "odd", 1, "cuda") for uuid in ("MIG-GPU-1/2/3", "../../up", "x" * 300, "")]
    with acquire(odd, 4, waiting(tmp_path)) as lease:
        assert len(lease.devices) == 4
    assert {file.parent for file in tmp_path.rglob("*.lock")} == {tmp_path / "leases"}


def test_all_sessions_of_a_host_look_into_one_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # as batch systems set it, for every job another
    assert not lease_directory({}).is_relative_to(tmp_path)
    assert lease_directory({"PROOFPACK_LEASE_DIR": str(tmp_path / "own")}) == tmp_path / "own"


def test_who_holds_a_device_is_told_by_process_and_command() -> None:
    line = describe_owner(["/venv/bin/pytest", "--proofpack-suite=full", "--proofpack-out=night"], "gw1")
    assert line.startswith(f"process {os.getpid()} (gw1) of ")
    assert line.endswith(": pytest --proofpack-suite=full --proofpack-out=night")
    assert describe_owner(["a\nb" * 200]).isprintable()
