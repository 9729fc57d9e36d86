"""Sessions that a signal ends: what is kept, how fast they end, and what they say."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.plugin.conftest import SmallSuite, certificates

pytestmark = pytest.mark.slow  # sessions that certify a model

Pytester = pytest.Pytester
SLOW = """
    import os, pathlib, time, pytest

    BEGUN = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(item):
        BEGUN.append(item)
        if len(BEGUN) == int(os.environ["HANGS"]):
            with pathlib.Path("hang.txt").open("a") as file:
                file.write(f"{os.getpid()} ")
            time.sleep(600)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop():
        from pytest_proofpack.pack import write
        from pytest_proofpack.plugin import controller

        if os.environ.get("SLOW") == "pack":
            usual = write._write_file

            def slowly(path, data):
                usual(path, data)
                pathlib.Path("packing.txt").touch()
                time.sleep(0.2)

            write._write_file = slowly
        elif os.environ.get("SLOW") == "verdict":
            usual = controller.finish

            def finish(*arguments, **options):
                pathlib.Path("finishing.txt").touch()
                time.sleep(3)
                return usual(*arguments, **options)

            controller.finish = finish
    """


class Session:
    """A pytest session in a process group of its own."""

    def __init__(self, folder: Path, suite: Path, *options: str, **variables: str) -> None:
        command = [sys.executable, "-m", "pytest", f"--proofpack-suite={suite}", "--proofpack-out=run", "-p", "slow"]
        self.folder = folder
        self.output = (folder / "output.txt").open("w+")
        environment = {**os.environ, "HANGS": "2", **variables}
        environment["PYTHONPATH"] = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
        self.process = subprocess.Popen(
            [*command, *options],
            cwd=folder,
            env=environment,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def hanging(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return list(map(int, (self.folder / "hang.txt").read_text().split()))
        return []

    def end(self, last_words: str) -> tuple[int, float]:
        """Return exit status, and seconds until it had said all; Python takes its time to leave with torch loaded."""
        begin = time.monotonic()
        while last_words not in self.said() and self.process.poll() is None:
            assert time.monotonic() < begin + 60, self.said()
            time.sleep(0.02)
        seconds = time.monotonic() - begin
        return self.process.wait(60), seconds

    def said(self) -> str:
        self.output.flush()
        return (self.folder / "output.txt").read_text()


@pytest.fixture
def sessions(pytester: Pytester, small: SmallSuite) -> Iterator[Callable[..., Session]]:
    begun: list[Session] = []
    pytester.makepyfile(slow=SLOW)

    def begin(*options: str, **variables: str) -> Session:
        begun.append(Session(pytester.path, small.suite, *options, **variables))
        return begun[-1]

    yield begin
    for session in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session.process.pid, signal.SIGKILL)
        session.process.wait()
        session.output.close()


def alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    return False


@pytest.mark.parametrize(
    ("number", "workers", "to_all"),
    [(signal.SIGINT, "-n2", True), (signal.SIGTERM, "-n2", False), (signal.SIGHUP, "-n0", True)],
)
def test_a_signal_ends_a_session_soon_and_says_how_to_go_on(
    pytester: Pytester, sessions: Callable[..., Session], number: signal.Signals, workers: str, to_all: bool
) -> None:
    session = sessions(workers)
    session.wait_for(lambda: bool(session.hanging() and certificates(pytester.path / "run")))
    made = certificates(pytester.path / "run")
    (os.killpg if to_all else os.kill)(session.process.pid, number)
    status, seconds = session.end("go on with: ")

    said = session.said()
    assert (status, seconds < 5) == (pytest.ExitCode.INTERRUPTED, True), said
    assert len(made) == 1
    assert certificates(pytester.path / "run") == made
    assert f"INTERRUPTED by {number.name}: {len(made)} of 6 certificates are there" in said
    assert "verdict: INCOMPLETE" in said
    assert "no pack: the session was interrupted" in said
    assert "go on with: pytest" in said
    assert "--proofpack-out=run --proofpack-resume" in said
    assert "Traceback" not in said
    assert not (pytester.path / "run/proof_pack").exists()
    assert not [process for process in session.hanging() if alive(process)]


@pytest.mark.parametrize("workers", ["-n2", "-n0"])
def test_a_second_signal_only_leaves_faster(pytester: Pytester, sessions: Callable[..., Session], workers: str) -> None:
    session = sessions(workers, SLOW="verdict", HANGS="1")
    session.wait_for(lambda: bool(session.hanging()))
    os.killpg(session.process.pid, signal.SIGINT)
    session.wait_for((pytester.path / "finishing.txt").exists)
    os.killpg(session.process.pid, signal.SIGINT)
    status, seconds = session.end("go on with: ")

    assert (status, seconds < 2) == (pytest.ExitCode.INTERRUPTED, True), session.said()
    assert "INTERRUPTED; go on with: pytest" in session.said()
    assert "Traceback" not in session.said()
    assert not (pytester.path / "run/proof_pack").exists()
    time.sleep(0.5)
    assert not [process for process in session.hanging() if alive(process)]


def test_a_signal_while_the_pack_is_written_leaves_none(pytester: Pytester, sessions: Callable[..., Session]) -> None:
    session = sessions("-k", "calibration", SLOW="pack")
    session.wait_for((pytester.path / "packing.txt").exists)
    os.kill(session.process.pid, signal.SIGINT)
    status, seconds = session.end("go on with: ")

    assert (status, seconds < 5) == (pytest.ExitCode.INTERRUPTED, True), session.said()
    assert "INTERRUPTED by SIGINT: 1 of 6 certificates are there" in session.said()
    assert "Traceback" not in session.said()
    assert not list((pytester.path / "run").glob("*proof_pack*"))
    assert (pytester.path / "run/reports/final_verdict.json").is_file()


def test_workers_end_with_their_controller(sessions: Callable[..., Session]) -> None:
    session = sessions("-n2", HANGS="1")
    session.wait_for(lambda: bool(session.hanging()))
    session.process.kill()
    session.process.wait()

    deadline = time.monotonic() + 2
    while any(map(alive, session.hanging())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
