"""The honest pack stays honest wherever it goes; what cannot be read there is a finding, never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.verify import VerificationReport, verify_pack
from tests.pack.conftest import Maker
from tests.support.forgery import files_of
from tests.support.packs import copy_of

NOBODY = 65534
ODD_NAMES = (
    "with spaces", "Großbuchstaben und Übergröße", unicodedata.normalize("NFD", "Übergröße"), "ﬁligran", "日本語", "📦",
    "line\nbreak", "quote'\"", "-rf", "%20", "a" * 200,
)  # fmt: skip
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user may look into; pytest's own are for their owner only."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_somebody_else(check: Callable[[], bool], umask: int) -> bool:
    """Return what ``check`` says in a process of the user ``nobody``."""
    child = os.fork()
    if child == 0:  # nothing may leave this branch but by _exit: pytest is loaded here too
        status = 2
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.umask(umask)
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def found(report: VerificationReport) -> str:
    assert not report.ok
    return "\n".join(finding for step in report.steps for finding in step.findings)


def make_read_only(pack: Path) -> None:
    for path in [pack, *pack.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_moved(signed: Path, gnupg: Maker, tmp_path: Path) -> None:
    shutil.move(signed, tmp_path / "elsewhere" / "proof_pack")
    assert verify_pack(tmp_path / "elsewhere" / "proof_pack", Demands((gnupg[1],))).ok


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tarred(signed: Path, gnupg: Maker, tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "pack.tar.gz", "w:gz", format=form) as tar:
        tar.add(signed, "proof_pack")
    with tarfile.open(tmp_path / "pack.tar.gz") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert verify_pack(tmp_path / "out/proof_pack", Demands((gnupg[1],))).ok


def test_read_only(signed: Path, gnupg: Maker) -> None:
    before = {path: path.stat().st_mtime_ns for path in signed.rglob("*")}
    make_read_only(signed)
    assert verify_pack(signed, Demands((gnupg[1],))).ok
    assert before == {path: path.stat().st_mtime_ns for path in signed.rglob("*")}


@as_root
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_under_another_user_and_umask(unsigned: Path, public_folder: Path, umask: int) -> None:
    pack = copy_of(unsigned, public_folder / "pack")
    make_read_only(pack)
    assert verify_pack(pack).ok  # and everything that it takes is imported
    assert as_somebody_else(lambda: verify_pack(pack).ok, umask)


@as_root
@pytest.mark.parametrize(
    ("path", "mode", "problem"),
    [
        ("certs", 0o644, "'certs/acme__tiny-1m': cannot be read (Permission denied)"),
        ("certs", 0o311, "'certs': cannot be read (Permission denied)"),
        ("README.md", 0o000, "'README.md': cannot be read (Permission denied)"),
    ],
)
def test_what_may_not_be_read_is_a_finding(
    unsigned: Path, public_folder: Path, path: str, mode: int, problem: str
) -> None:
    pack = copy_of(unsigned, public_folder / "pack")
    make_read_only(pack)
    (pack / path).chmod(mode)
    assert as_somebody_else(lambda: problem in found(verify_pack(pack)), 0o022)


def is_refused(pack: Path) -> bool:
    with pytest.raises(ConfigurationError, match=r"pack: cannot be read \(Permission denied\)"):
        verify_pack(pack)
    return True


@as_root
def test_a_pack_that_may_not_be_read_at_all_cannot_be_verified(unsigned: Path, public_folder: Path) -> None:
    pack = copy_of(unsigned, public_folder / "pack")
    pack.chmod(0o000)
    assert as_somebody_else(lambda: is_refused(pack), 0o022)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_below_a_path_with_an_odd_name(signed: Path, gnupg: Maker, tmp_path: Path, name: str) -> None:
    pack = copy_of(signed, tmp_path / name / name)
    assert verify_pack(pack, Demands((gnupg[1],))).ok


@pytest.mark.parametrize("way", ["pack", "./pack/", "pack/../pack", "link"])
def test_however_its_path_is_written(unsigned: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.chdir(unsigned.parent)
    Path("link").symlink_to(unsigned)
    assert verify_pack(Path(way)).ok


def test_on_a_case_insensitive_file_system_no_two_of_its_names_are_one(unsigned: Path) -> None:
    """Such a system keeps names as they were written; what it cannot keep apart is all that could go wrong there."""
    paths = [path.relative_to(unsigned).as_posix() for path in unsigned.rglob("*")]
    folded = {unicodedata.normalize("NFD", path.casefold()) for path in paths}
    assert len(folded) == len(paths)
    assert all(path.isascii() for path in paths)


def test_a_file_that_vanishes_is_a_finding(unsigned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def vanish(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "scenarios.json":
            (unsigned / "state" / path).unlink()
        return opened(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", vanish)
    assert "'state/scenarios.json': cannot be read (No such file or directory)" in found(verify_pack(unsigned))


def test_a_file_that_becomes_a_pipe_is_not_waited_for(unsigned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def replaced(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "README.md":
            (unsigned / path).unlink()
            os.mkfifo(unsigned / path)
        return opened(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", replaced)
    assert "'README.md': not a regular file" in found(verify_pack(unsigned))


def test_a_folder_that_cannot_be_listed_is_a_finding(unsigned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, descriptors = os.scandir, []

    def fail(descriptor: int) -> object:
        descriptors.append(descriptor)
        if len(descriptors) == 3:
            raise OSError(5, "Input/output error")
        return listed(descriptor)

    monkeypatch.setattr(os, "scandir", fail)
    assert "cannot be listed (Input/output error)" in found(verify_pack(unsigned))


@as_root
def test_a_device_is_a_finding_and_not_opened(unsigned: Path) -> None:
    try:
        os.mknod(unsigned / "tape", 0o600 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this container may not make devices")
    assert "'tape': a device, a pipe or a socket" in found(verify_pack(unsigned))


def test_the_shell_script_of_invarlock_takes_it_too(signed: Path, gnupg: Maker) -> None:
    """What verify_pack.sh of 0.3.7 does before it calls ``invarlock verify`` (tests/pack/test_interoperability.py)."""
    script = """
    set -euo pipefail
    test -f manifest.json && test -f checksums.sha256
    sha256sum -c checksums.sha256
    gpg --verify manifest.json.asc manifest.json
    certs=$(find . -type f -name "*.cert.json" | sort)
    test -n "${certs}" && echo "${certs}" | wc -l
    """
    done = subprocess.run(["bash", "-c", script], cwd=signed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    certificates = [path for path in files_of(signed) if path.endswith(".cert.json")]
    assert done.stdout.split("\n")[-2] == str(len(certificates))


def test_started_with_nothing_in_the_environment(unsigned: Path) -> None:
    script = Path(sys.executable).with_name("proofpack")
    keep = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    done = subprocess.run([script, "verify", unsigned], capture_output=True, text=True, check=False, env=keep)
    assert done.returncode == 0, done.stderr
