"""Sessions in which a model lies over two GPUs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack import verify
from pytest_proofpack.devices.inventory import CUDA, Device, visible_devices
from pytest_proofpack.devices.leases import Waiting, acquire
from pytest_proofpack.devices.model_shapes import plan_model
from pytest_proofpack.engine.inputs import CheckedInputs
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.runs.run import resolve_run
from tests.plugin.conftest import PASSING, SmallSuite, certificates
from tests.support.default_settings import DEFAULTS
from tests.support.model_files import build_model_directory

pytestmark = [pytest.mark.gpu(2), pytest.mark.slow]

KILLER = """
    import os, pathlib, signal, pytest

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_setup(item):
        baseline = item.funcargs.get("proofpack_baseline")
        if baseline is None or "nan_injection" not in item.nodeid:
            return
        devices = sorted({str(parameter.device) for parameter in baseline.model.parameters()})
        with pathlib.Path("tries.txt").open("a") as file:
            file.write(" ".join(devices) + "\\n")
        if len(pathlib.Path("tries.txt").read_text().splitlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    """


def memory_for_two(suite: SmallSuite, out: Path) -> int:
    """Return bytes per GPU, by our own plan, with which the suite's model takes two: amid those that do."""
    run = resolve_run(replace(DEFAULTS, suite=str(suite.suite), out=str(out), no_pack=True, sign="off"))
    prepared = CheckedInputs(run).prepare(run.suite.models[0])

    def devices(size: int) -> int:
        pair = [Device(number, f"GPU-{number}", "any", size, CUDA) for number in (0, 1)]
        try:
            return plan_model(prepared.spec, prepared.plan, pair).devices
        except ConfigurationError:
            return 3

    def least(most: int) -> int:
        """Return the smallest size with which it takes at most so many."""
        low, high = 2**28, 2**36
        while high - low > 2**12:
            middle = (low + high) // 2
            low, high = (low, middle) if devices(middle) <= most else (middle, high)
        return high

    size = (least(2) + least(1)) // 2
    assert devices(size) == 2
    return size


def test_a_killed_worker_whose_model_lies_over_two_gpus_leaves_both_and_the_run_is_complete(
    pytester: pytest.Pytester, small: SmallSuite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Many layers, so that half of the model and a layer are less than the whole."""
    small.model.unlink()
    build_model_directory(small.model, num_hidden_layers=12, hidden_size=256, intermediate_size=1024)
    size = memory_for_two(small, tmp_path / "planned")
    leases = pytester.path / "leases"
    monkeypatch.setenv("PROOFPACK_LEASE_DIR", str(leases))
    pytester.syspathinsert(pytester.makepyfile(killer=KILLER).parent)
    ours = f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--proofpack-device=cuda", "-n2", "-p", "killer"
    result = pytester.runpytest_subprocess(*ours, f"--proofpack-gpu-memory={size / 2**30:.6f}", timeout=500)

    result.stdout.fnmatch_lines(["*ended by signal 9 (SIGKILL) while it made *nan_injection. It is tried once more."])
    tries = (pytester.path / "tries.txt").read_text().splitlines()
    assert [len(devices.split()) for devices in tries] == [2, 2]
    run = pytester.path / "run"
    assert len(certificates(run)) == len(PASSING) + 1
    assert json.loads((run / "reports/final_verdict.json").read_text())["missing"] == []
    assert verify(run / "proof_pack").ok
    with acquire(visible_devices("cuda", os.environ), 2, Waiting(leases, "this test", timeout=0.0)) as lease:
        assert len(lease.devices) == 2
