"""Leases of devices between real processes: they exclude each other, keep their order, and end with their owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting, acquire, describe_owner
from pytest_proofpack.errors import ConfigurationError, EvaluationError
from tests.support.lease_holders import DEVICES, PATIENCE, Holder, waiting


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


def test_who_holds_a_device_is_told_by_process_and_command() -> None:
    line = describe_owner(["/venv/bin/pytest", "--proofpack-suite=full", "--proofpack-out=night"], "gw1")
    assert line.startswith(f"process {os.getpid()} (gw1) of ")
    assert line.endswith(": pytest --proofpack-suite=full --proofpack-out=night")
    assert describe_owner(["a\nb" * 200]).isprintable()
