"""The directory of locks: for all users, safe from what others put there, and one line where it cannot be used."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting, acquire
from pytest_proofpack.devices.lock_folder import DeviceLock, LockFolder, lease_directory
from pytest_proofpack.errors import ConfigurationError, EvaluationError
from tests.support.lease_holders import DEVICES, Holder, waiting


def test_files_are_for_all_users_of_the_host(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        acquire(DEVICES[:1], 1, waiting(tmp_path)).release()
    finally:
        os.umask(before)
    folder = tmp_path / "leases"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666}


def test_all_sessions_of_a_host_look_into_one_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # as batch systems set it, for every job another
    assert not lease_directory({}).is_relative_to(tmp_path)
    assert lease_directory({"PROOFPACK_LEASE_DIR": str(tmp_path / "own")}) == tmp_path / "own"


def test_any_name_of_a_device_makes_a_file(tmp_path: Path) -> None:
    odd = [Device(0, uuid, "odd", 1, "cuda") for uuid in ("MIG-GPU-1/2/3", "../../up", "x" * 300, "")]
    with acquire(odd, 4, waiting(tmp_path)) as lease:
        assert len(lease.devices) == 4
    assert {file.parent for file in tmp_path.rglob("*.lock")} == {tmp_path / "leases"}


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
