"""Sessions whose workers are forked off a process that imports torch from their first moment on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import execnet
import pytest

from pytest_proofpack.plugin.fork_server import hooks
from tests.plugin.conftest import SmallSuite, certificates
from tests.support.warm_sessions import run_pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every worker is started by itself")

FACTS = """
import atexit, json, os, sys, time
from pathlib import Path

def leave(worker):
    time.sleep(0.5)
    Path(f"{worker}.left").touch()

def pytest_configure(config):
    worker = getattr(config, "workerinput", {}).get("workerid")
    if worker:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_text()
        threads = os.environ["OMP_NUM_THREADS"]
        facts = {"torch": "torch" in sys.modules, "parent": "server.py" in parent, "threads": threads}
        Path(f"{worker}.json").write_text(json.dumps(facts))
        atexit.register(leave, worker)
"""
KILLS_ITS_PARENT = """
import os, signal
from pathlib import Path
from pytest_proofpack.plugin import making

def pytest_runtest_call(item):
    if hasattr(item.config, "workerinput") and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)
        import time
        time.sleep(30)
"""


def facts(folder: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("gw*.json")}


def options(small: SmallSuite, out: str, *more: str) -> list[str]:
    return [
        f"--proofpack-suite={small.suite}",
        f"--proofpack-out={out}",
        "--proofpack-sign=off",
        "--proofpack-no-html",
        *more,
    ]


@pytest.mark.slow
def test_forked_workers_make_the_certificates_of_a_session_without_any(
    pytester: pytest.Pytester, small: SmallSuite
) -> None:
    small.write(("quant_4bit_clean", "nan_injection"))
    pytester.makepyfile(facts=FACTS)
    alone = run_pytest(pytester.path, *options(small, "alone", "-n0"))
    forked = pytester.runpytest_subprocess("-pfacts", *options(small, "forked", "-n2"))

    assert alone.returncode == forked.ret == 0
    assert list(facts(pytester.path).values()) == [{"torch": True, "parent": True, "threads": "1"}] * 2
    assert {path.name for path in pytester.path.glob("*.left")} == {"gw0.left", "gw1.left"}
    found, expected = certificates(pytester.path / "forked"), certificates(pytester.path / "alone")
    assert {name: one["certificate_digest"] for name, one in found.items()} == {
        name: one["certificate_digest"] for name, one in expected.items()
    }


@pytest.mark.slow
def test_when_the_server_is_killed_workers_start_by_themselves(pytester: pytest.Pytester, small: SmallSuite) -> None:
    small.write(("nan_injection",))
    pytester.makepyfile(facts=FACTS, kills=KILLS_ITS_PARENT)
    result = pytester.runpytest_subprocess("-pfacts", "-pkills", *options(small, "run", "-n1"))

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*Worker gw0 ended by signal 9 (SIGKILL) while it made *. It is tried once more."])
    assert {name: (one["torch"], one["parent"]) for name, one in facts(pytester.path).items()} == {
        "gw0": (True, True),
        "gw1": (False, False),
    }


def test_nothing_is_forked_where_libraries_would_have_read_something_else(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pytester.parseconfig("-n1")
    config.option.tx = ["popen"]
    monkeypatch.setattr(hooks, "LIBRARIES", ("json",))
    specs = [execnet.XSpec("popen") for _ in range(3)]
    for spec, changed in zip(
        specs, ({}, {"PYTEST_CURRENT_TEST": "mine"}, {"TOKENIZERS_PARALLELISM": "0"}), strict=True
    ):
        server = hooks.ForkServer(config, lambda workers: {"OMP_NUM_THREADS": f"{workers}"})
        with monkeypatch.context() as patch:
            server.pytest_configure()
            for name, value in changed.items():
                patch.setenv(name, value)
            server.pytest_xdist_setupnodes([spec])
            server.end()

    assert [spec.python is not None for spec in specs] == [True, True, False]


@pytest.mark.parametrize(
    ("spec", "forked"),
    [
        ("popen", True),
        ("popen//id=gw7", True),
        ("popen//execmodel=main_thread_only", True),
        ("popen//python=python3", False),
        ("popen//env:OMP_NUM_THREADS=4", False),
        ("popen//chdir=there", False),
        ("popen//dont_write_bytecode", False),
        ("popen//nice=5", False),
        ("popen//via=other", False),
        ("ssh=host//python=python3", False),
        ("socket=192.168.1.4:8888", False),
    ],
)
def test_only_workers_that_are_as_usual_are_forked(spec: str, forked: bool) -> None:
    assert hooks.may_be_forked(execnet.XSpec(spec)) is forked
