"""Disks that are full: told before any work where they are, and in one line where they become so."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_proofpack.common.files import Space, atomic_write
from pytest_proofpack.errors import ConfigurationError, StorageError
from pytest_proofpack.runs import disk
from tests.runs.test_resume import make_run

PLENTY = Space(10**12, 10**9)


@pytest.mark.parametrize("short", [PLENTY._replace(bytes=2_000_000), PLENTY._replace(inodes=100)])
def test_too_little_is_told_in_numbers_before_any_work(
    short: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(disk, "free_space", lambda _path: PLENTY)
    disk.require_space(run)
    monkeypatch.setattr(disk, "free_space", lambda _path: short)
    with pytest.raises(
        ConfigurationError, match=r"--proofpack-out: .* inodes left, and \d+ certificates .* need about"
    ):
        disk.require_space(run)


@pytest.mark.parametrize(("size", "fits"), [(10**11, True), (10**12 - 2_000_000, False)])
def test_what_a_run_can_do_without_has_to_fit_beside_the_rest(
    size: int, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_space", lambda _path: PLENTY)
    assert disk.has_room_beside(make_run(tmp_path / "run"), size) is fits


def test_the_estimate_covers_a_real_run() -> None:
    """The embedded suite's 22 certificates took 260 kB each with their copies and pages, and 4 files each."""
    assert disk.CERTIFICATE_BYTES > 260_000
    assert disk.CERTIFICATE_INODES >= 4


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"cannot be written \(No space left on device\); its file system has .* and \d+ inodes left"),
        (errno.EROFS, r"cannot be written \(Read-only file system\)$"),
        (errno.EIO, r"cannot be written \(Input/output error\)$"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=rf"{tmp_path}/a/file: {words}"):
        atomic_write(tmp_path / "a" / "file", b"x")
    assert not list((tmp_path / "a").iterdir())


FILL = """
import sys
from pathlib import Path
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.errors import StorageError
place = Path(sys.argv[1])
try:
    for number in range(1000):
        atomic_write(place / str(number) / "file", bytes(int(sys.argv[2])))
except StorageError as error:
    print(error)
print(*(path for path in place.rglob("*") if path.suffix == ".tmp"))
print(all(path.stat().st_size == int(sys.argv[2]) for path in place.glob("*/file")))
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounts a tmpfs, which takes root")
@pytest.mark.parametrize(
    ("mount", "size", "left"), [("size=1M", 100_000, " kB and "), ("nr_inodes=50", 10, " 0 inodes")]
)
def test_a_tmpfs_that_fills_up(mount: str, size: int, left: str, tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o {mount} tmpfs {tmp_path} && exec {sys.executable} -c '{FILL}' {tmp_path} {size}"
    result = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "mount:" in result.stderr or "unshare:" in result.stderr:
        pytest.skip(f"no mount here: {result.stderr.strip()}")
    told, leftovers, whole = result.stdout.splitlines()
    assert "cannot be written (No space left on device); its file system has" in told
    assert left in told
    assert (leftovers, whole) == ("", "True")
