"""Devices in real pytest-xdist sessions, with GPUs that a fake driver lists (see ``fake_gpus``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting, acquire
from pytest_proofpack.devices.lock_folder import lease_directory
from tests.plugin.conftest import SmallSuite

Pytester = pytest.Pytester
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def session(pytester: Pytester, small: SmallSuite, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs one item of the user's beside a suite whose own are left out."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    monkeypatch.setenv("PROOFPACK_LEASE_DIR", str(pytester.path / "leases"))
    monkeypatch.setenv("PACK_NO_FORK", "1")  # no item here needs what a forked worker has loaded
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(
        test_something="""
        import os, time
        from pathlib import Path

        def test_something():
            deadline = time.monotonic() + 120
            while "DIES" in os.environ and not Path("gw2.report").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        """
    )

    def run(*options: str, gpus: int, **environment: str) -> pytest.RunResult:
        for name, value in {"FAKE_GPUS": str(gpus), **environment}.items():
            monkeypatch.setenv(name, value)
        suite = (f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--proofpack-no-pack")
        chosen = ("test_something.py", "-k", "test_something", "-p", "tests.support.fake_gpus", "-p", "no:randomly")
        return pytester.runpytest_subprocess(*suite, *chosen, *options)

    return run


def reports(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.report"))}


def test_each_worker_is_shown_its_own_device_before_anything_is_loaded(session: Any, pytester: Pytester) -> None:
    result = session("-nauto", gpus=3)

    assert result.parseoutcomes()["passed"] == 1
    result.stdout.fnmatch_lines(["proofpack: 3 GPUs (Fake, 80.0 GiB each)"])
    found = reports(pytester.path)
    assert [found[f"gw{number}"]["shown"] for number in range(3)] == [
        "GPU-0,GPU-1,GPU-2",
        "GPU-1,GPU-2,GPU-0",
        "GPU-2,GPU-0,GPU-1",
    ]
    assert not any(own["torch"] for own in found.values())


def test_the_callers_choice_is_respected_and_the_surplus_gets_nothing(session: Any, pytester: Pytester) -> None:
    result = session("-n3", gpus=4, CUDA_VISIBLE_DEVICES="3,1")

    assert result.parseoutcomes()["passed"] == 1
    found = reports(pytester.path)
    assert [found[f"gw{number}"]["shown"] for number in range(3)] == ["GPU-3,GPU-1", "GPU-1,GPU-3", ""]


def test_a_worker_that_is_started_anew_keeps_its_device(session: Any, pytester: Pytester) -> None:
    result = session("-n2", gpus=2, DIES="gw1")

    result.stdout.fnmatch_lines(["replacing crashed worker gw1"])
    found = reports(pytester.path)
    assert set(found) == {"gw0", "gw1", "gw2"}
    assert found["gw2"] == found["gw1"]
    assert found["gw2"]["shown"] == "GPU-1,GPU-0"


def test_a_device_that_the_user_gives_a_worker_is_left_to_it(session: Any, pytester: Pytester) -> None:
    session("--tx=popen//env:CUDA_VISIBLE_DEVICES=GPU-1", "--dist=load", gpus=2)

    assert reports(pytester.path)["gw0"]["shown"] == "GPU-1"


def test_on_a_cpu_cores_are_shared_out(session: Any, pytester: Pytester) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    try:
        result = session("-nauto", "--proofpack-device=cpu", gpus=8)
    finally:
        os.sched_setaffinity(0, cores)

    result.stdout.fnmatch_lines(["*1 worker *"])
    assert reports(pytester.path) == {"gw0": {"shown": None, "threads": "1", "torch": False}}


def test_automatic_workers_do_not_outgrow_the_memory(
    session: Any, pytester: Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(little="import psutil\nfrom types import SimpleNamespace\n"
                        "psutil.virtual_memory = lambda: SimpleNamespace(total=2**40, available=2**20)\n")  # fmt: skip
    result = session("-nauto", "-p", "little", "--proofpack-device=cpu", gpus=0)

    result.stdout.fnmatch_lines(["*1 worker *"])
    assert set(reports(pytester.path)) == {"gw0"}


def test_what_fits_nowhere_ends_the_session_before_anything_starts(session: Any, pytester: Pytester) -> None:
    result = session("-n2", "--proofpack-gpu-memory=0.5", gpus=2)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: acme/small: does not fit. Its weights take 0.00* GiB*There is: 0.5 GiB, 0.5 GiB.*"]
    )
    assert not list(pytester.path.glob("run/*"))
    assert not reports(pytester.path)


def test_a_device_that_is_not_there_is_told(session: Any) -> None:
    result = session("--proofpack-device=cuda", gpus=0)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-device=cuda: no GPU can be used.*"])


IN_PLACE = """
from dataclasses import replace
from pytest_proofpack.devices import placement as slots
hold = slots.ProcessDevices.hold
def on_cpu(self, plan, borrowed=()):
    return replace(hold(self, plan, borrowed), placement=slots.Placement("cpu", {}, plan.batch_windows))
slots.ProcessDevices.hold = on_cpu
"""
"""A plugin that leases GPUs and then computes on the CPU in their place."""


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.usefixtures("session")
def test_a_session_waits_for_the_devices_of_another_and_says_so(
    small: SmallSuite, pytester: Pytester, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("FAKE_GPUS", "1")
    pytester.makepyfile(in_place=IN_PLACE)
    command = [sys.executable, "-m", "pytest", f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-n", workers]
    command += ["-p", "tests.support.fake_gpus", "-p", "in_place", "-k", "calibration"]
    seen = []
    with acquire(
        [Device(0, "GPU-0", "Fake", 1, "cuda")], 1, Waiting(lease_directory(os.environ), "another", 0.0)
    ) as lease:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line.strip())
            if "waiting" in line:
                lease.release()
    process.communicate()
    who = "gw0 is " if workers == "1" else ""
    assert f"proofpack: {who}waiting up to 14400 s for 1 of 1 devices: GPU-0 is held by another" in seen
    assert any("1 passed" in line for line in seen)


@pytest.mark.usefixtures("session")
def test_a_session_does_not_wait_for_ever(
    small: SmallSuite, pytester: Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GPUS", "1")
    pytester.makepyfile(in_place=IN_PLACE)
    options = (f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-n1", "--proofpack-device-timeout=1")
    device = Device(0, "GPU-0", "Fake", 1, "cuda")
    with acquire([device], 1, Waiting(lease_directory(os.environ), "process 7 of ann: pytest --proofpack-out=a", 0.0)):
        result = pytester.runpytest_subprocess(*options, "-p", "tests.support.fake_gpus", "-p", "in_place")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    holder = "GPU-0 is held by process 7 of ann: pytest --proofpack-out=a"
    assert f"1 of 1 devices were not free within 1 s: {holder}" in result.stdout.str()
    assert f"1 of 1 devices are not free: {holder}" in result.stdout.str()
    assert "--proofpack-device-timeout" in result.stdout.str()
    assert "verdict: FAIL" in result.stdout.str()
