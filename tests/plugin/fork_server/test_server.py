"""The fork server and its client, with a small module in torch's place."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.plugin.fork_server import client, server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every worker is started by itself")

PRELOADED = "xml.dom.minidom"
"""Nothing that Python imports as it starts."""
WAIT = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
TELL = f"import sys; print({PRELOADED!r} in sys.modules, sys.argv, sys.path[0] == '', flush=True)"


class Forks:
    """A fork server, and what is started by its client."""

    def __init__(self, *modules: str) -> None:
        self.name = f"test-{secrets.token_hex(8)}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{self.name}")
            listener.listen()
            self.process = subprocess.Popen(
                [sys.executable, "-P", server.__file__, str(listener.fileno()), str(os.getpid()), *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> int:
        """End it as a controller does; return its exit status."""
        with self.process as process:
            assert process.stdin is not None
            process.stdin.close()
        return process.returncode

    def answer(self) -> bytes:
        """Return what it says once it can fork, or can't."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def begin(self, code: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start a worker that runs this code."""
        worker = [sys.executable, "-u", "-c", code]
        command = [sys.executable, "-IS", client.__file__, self.name, str(os.getpid()), *worker]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more)

    def say(self, code: str, **more: Any) -> bytes:
        """Return what such a worker prints."""
        with self.begin(code, **more) as worker:
            return worker.communicate(timeout=20)[0]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """Return a server that has imported something."""
    with Forks(PRELOADED) as found:
        yield found


def said_process(worker: subprocess.Popen[bytes]) -> int:
    """Return the process that a worker says it is."""
    assert worker.stdout is not None
    return int(worker.stdout.readline())


def gone(process: int) -> bool:
    """Tell whether a process has ended, or is about to be forgotten."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_begins_with_what_the_server_has_imported(forks: Forks) -> None:
    assert forks.say(TELL) == b"True ['-c'] True\n"


def test_a_worker_has_folder_input_and_environment_of_its_own(forks: Forks, tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), os.environ.get('MINE'), sys.stdin.readline())"
    with forks.begin(code, env={"MINE": "ä"}, cwd=tmp_path) as worker:
        said, _ = worker.communicate(b"a line\n", timeout=20)

    assert said.decode() == f"{tmp_path} ä a line\n\n"


@pytest.mark.parametrize("status", [0, 3])
def test_its_exit_status_is_its_clients(forks: Forks, status: int) -> None:
    with forks.begin(f"raise SystemExit({status})") as worker:
        assert worker.wait(20) == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_so_is_the_signal_that_ends_it(forks: Forks, number: signal.Signals) -> None:
    with forks.begin(f"import os; os.kill(os.getpid(), {int(number)})") as worker:
        assert worker.wait(20) == -number


def test_a_worker_whose_client_is_ended_ends_too(forks: Forks) -> None:
    with forks.begin(WAIT) as worker:
        forked = said_process(worker)
        worker.kill()

        wait_until(lambda: gone(forked))


def test_interrupts_of_a_terminal_are_left_to_the_controller(forks: Forks) -> None:
    code = "import os, signal\nprint(signal.getsignal(signal.SIGINT).__name__, flush=True)\ninput()"
    with forks.begin(code) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"default_int_handler\n"
        worker.send_signal(signal.SIGINT)
        forks.process.send_signal(signal.SIGINT)

        said, _ = worker.communicate(b"go on\n", timeout=20)
    assert said == b""
    assert worker.returncode == 0
    assert forks.say(TELL).startswith(b"True")


def test_workers_end_with_the_server() -> None:
    with Forks(PRELOADED) as own, own.begin(WAIT) as worker:
        forked = said_process(worker)
        own.process.kill()

        assert worker.wait(20) == -signal.SIGKILL
        wait_until(lambda: gone(forked))


def test_workers_end_when_the_controller_lets_go() -> None:
    own = Forks(PRELOADED)
    with own.begin(WAIT) as worker:
        forked = said_process(worker)

        assert own.let_go() == 0
        assert gone(forked)
        assert worker.wait(20) == -signal.SIGKILL


def test_it_says_when_it_can_fork_and_nothing_that_modules_say() -> None:
    with Forks("this") as own:  # prints a poem
        assert own.answer() == b"+"


@pytest.mark.parametrize("modules", [["no.such.module"], ["tests.plugin.fork_server.busy"]])
def test_without_a_server_that_can_fork_a_worker_starts_by_itself(
    modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    with Forks(PRELOADED, *modules) as own:
        assert own.answer() == b""
        assert own.say(TELL) == b"False ['-c'] True\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else for a moment")
def test_nobody_else_gets_a_worker(forks: Forks) -> None:
    order = f"""
import os, socket
os.setuid(65534)
try:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect("\\0{forks.name}")
        socket.send_fds(server, [(2).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(b"{{{{}}}}")
        print(server.recv(1) or "refused")
except (BrokenPipeError, ConnectionResetError):
    print("refused")
"""
    stranger = subprocess.run([sys.executable, "-c", order], capture_output=True, check=False, timeout=20)

    assert stranger.stdout == b"refused\n"
    assert forks.say(TELL).startswith(b"True")


@pytest.mark.parametrize("order", [b"", b"\0\0\0\2[]", b"\0\0\0\2{}", b"\0\0\0\5nope!"])
def test_an_order_that_is_none_is_refused(forks: Forks, order: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(f"\0{forks.name}")
        stranger.sendall(order)
        stranger.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""

    assert forks.say(TELL).startswith(b"True")
