"""Sessions whose disk gives out: one line for each thing that could not be written, and how to go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import SmallSuite, certificates

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_sessions")]  # sessions that certify a model

Pytester = pytest.Pytester
FAULT = """
import errno, os, shutil
from pathlib import Path

import pytest

import pytest_proofpack.common.files as files
import pytest_proofpack.pack.write as write

real, real_pack = files._write_beside, write._write_file

def fails(path):
    {condition}

def write_beside(path, raw):
    if fails(Path(path)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    real(path, raw)

def write_file(path, data):
    if fails(Path(path)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    real_pack(path, data)

files._write_beside, write._write_file = write_beside, write_file
"""


def run(pytester: Pytester, small: SmallSuite, condition: str, *options: str) -> pytest.RunResult:
    code = FAULT.format(condition=condition)
    pytester.syspathinsert(pytester.makepyfile(fault=code).parent)
    small.write(("quant_4bit_clean", "nan_injection"))
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-p", "fault", *options
    )
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    return result


def test_a_certificate_that_cannot_be_stored(pytester: Pytester, small: SmallSuite) -> None:
    result = run(pytester, small, 'return path.name == "evaluation.cert.json" and "nan_injection" in str(path)')
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*nan_injection/evaluation.cert.json: cannot be written (No space left on device); its file system has *",
            "*nan_injection*MISSING*",
            "go on with: *--proofpack-resume",
        ]
    )
    assert len(certificates(pytester.path / "run")) == 2


def test_the_verdict_and_the_pack(pytester: Pytester, small: SmallSuite) -> None:
    result = run(pytester, small, 'return path.name == "final_verdict.json"')
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "verdict: PASS",
            "not written: *final_verdict.json: cannot be written (No space left on device)*",
            "go on with: *--proofpack-resume",
            "FAILED proofpack/small::verdict - not written: *",
        ]
    )
    again = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--proofpack-resume"
    )
    assert again.ret == pytest.ExitCode.OK
    again.stdout.fnmatch_lines(["proofpack: resumed: 3 of 3 certificates reused", "pack: run/proof_pack"])


def test_only_the_pack(pytester: Pytester, small: SmallSuite) -> None:
    result = run(pytester, small, 'return path.name == "manifest.json"')
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "verdict: PASS",
            "no pack: the pack could not be written. *run/proof_pack: cannot be written (No space left on device)*",
            "go on with: *--proofpack-resume",
            "FAILED proofpack/small::verdict - no pack: the pack could not be written*",
        ]
    )
    assert not (pytester.path / "run/proof_pack").exists()


def test_without_room_for_what_workers_share_the_run_goes_on(pytester: Pytester, small: SmallSuite) -> None:
    result = run(pytester, small, 'return {"baseline", "text"} & {*path.parts}', "-n2")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["verdict: PASS", "pack: run/proof_pack"])


def test_a_run_directory_that_is_deleted_midway(pytester: Pytester, small: SmallSuite) -> None:
    delete = 'path.name == "evaluation.cert.json" and shutil.rmtree("run", ignore_errors=True)'
    result = run(pytester, small, f"{delete}\n    return False")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*run: was deleted, or moved away, while the run was under way*", "not written: *"])
    result.stdout.no_fnmatch_line("go on with: *")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounts a tmpfs, which takes root")
@pytest.mark.parametrize(
    ("mount", "status", "words"),
    [
        ("size=1M", 4, "has 1.05 MB and * inodes left, and 3 certificates with their pack need about 2.2 MB"),
        ("size=64M,nr_inodes=40", 4, "inodes left, and 3 certificates with their pack need about 2.2 MB and 96"),
    ],
)
def test_a_small_tmpfs(pytester: Pytester, small: SmallSuite, mount: str, status: int, words: str) -> None:
    small.write(("quant_4bit_clean", "nan_injection"))
    place = pytester.mkdir("small_disk")
    pytest_command = f"{sys.executable} -m pytest --proofpack-suite={small.suite} --proofpack-out={place}/run"
    command = f"mount -t tmpfs -o {mount} tmpfs {place} && {pytest_command}"
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], cwd=pytester.path, capture_output=True, text=True, check=False
    )
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"no mount here: {result.stderr.strip()}")
    assert result.returncode == status, result.stdout + result.stderr
    first, _, last = words.partition(" * ")
    assert first in result.stderr
    assert last in result.stderr
    assert not any(Path(place).iterdir())
