"""Memory that a real limit takes away: of a cgroup, where the kernel kills; of a GPU, where torch says so."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.plugin.conftest import SmallSuite, certificates

_LIMIT = 1536 << 20
"""Bytes: controller and two workers take about a half."""
_MEMORY = Path("/sys/fs/cgroup/memory")

GREEDY = """
    import os, pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(item):
        if "fp8_e5m2_clean" in item.nodeid and "PYTEST_XDIST_WORKER" in os.environ:
            held = [bytearray(b"x" * (64 << 20)) for _ in range(40)]
        return (yield)
    """

TAKES_THE_GPU = """
    import pytest, torch

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(fixturedef, request):
        held, size = [], torch.cuda.mem_get_info()[1] if fixturedef.argname == "proofpack_edited" else 0
        while "fp8_e5m2_clean" in request.node.nodeid and size >= 512:
            try:
                held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                size //= 2
        try:
            return (yield)
        finally:
            del held
            torch.cuda.empty_cache()
    """


@pytest.fixture
def limited() -> Iterator[Path]:
    """A group of processes with a limit on their memory; whoever is written to its tasks is in it."""
    group = _MEMORY / f"proofpack-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(_LIMIT))
        if len(Path("/proc/swaps").read_text().splitlines()) > 1:  # else the limit is kept by swapping
            (group / "memory.memsw.limit_in_bytes").write_text(str(_LIMIT))
    except OSError:
        with suppress(OSError):
            group.rmdir()
        pytest.skip("this process may make no cgroup (of version 1) with a limit on memory")
    yield group
    with suppress(OSError):
        group.rmdir()


def test_a_worker_that_the_kernel_kills_for_its_memory(
    pytester: pytest.Pytester, small: SmallSuite, limited: Path
) -> None:
    small.write(("quant_4bit_clean", "fp8_e5m2_clean", "nan_injection"))
    pytester.syspathinsert(pytester.makepyfile(greedy=GREEDY).parent)
    pytester.makepyfile(
        within=f"""
        import os, sys
        from pathlib import Path

        Path({str(limited / "tasks")!r}).write_text(str(os.getpid()))
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]])
        """
    )
    ours = f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-n2", "-p", "greedy"
    result = pytester.run(sys.executable, "within.py", *ours, timeout=300)

    why = "ended by signal 9 (SIGKILL), perhaps out of memory: the kernel says that it ended a process for want of it"
    result.stdout.fnmatch_lines([f"*Worker gw? {why} while it made *fp8_e5m2_clean*It is tried once more."])
    assert result.stdout.str().count("for want of it while it made acme/small-fp8_e5m2_clean-run_1.") >= 3
    (missing,) = json.loads((pytester.path / "run/reports/final_verdict.json").read_text())["missing"]
    assert missing["scenario"] == "fp8_e5m2_clean"
    assert len(certificates(pytester.path / "run")) >= 3


@pytest.mark.gpu
@pytest.mark.slow
def test_a_gpu_whose_memory_runs_out_in_the_middle_of_an_edit(pytester: pytest.Pytester, small: SmallSuite) -> None:
    pytester.syspathinsert(pytester.makepyfile(taking=TAKES_THE_GPU).parent)
    ours = f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--proofpack-device=cuda", "-p", "taking"
    result = pytester.runpytest_subprocess(*ours, timeout=300)

    told = "memory of the device ran out: * more were asked for, and * of * were free. Use a larger device,*"
    result.stdout.fnmatch_lines([f"*acme/small-fp8_e5m2_clean*{told}"])
    verdict = json.loads((pytester.path / "run/reports/final_verdict.json").read_text())
    assert [entry["scenario"] for entry in verdict["missing"]] == ["fp8_e5m2_clean"]
    assert all(row["as_expected"] for row in verdict["certificates"])
    assert len(verdict["certificates"]) == len(certificates(pytester.path / "run"))
