"""What execnet starts in place of Python: has the fork server fork a worker, and ends as that does.

    python -IS client.py NAME CONTROLLER PYTHON -u -c CODE

``NAME`` is that of the server's socket. Where there is no server, it becomes what it was to be without one, ``PYTHON``
and all arguments behind. The worker has its standard input, output and error, its folder and its environment; if this
process is ended, so is the worker, and so are both when the controller ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import sys

LENGTH = struct.Struct("!I")
STARTED = b"+"
_PR_SET_PDEATHSIG = 1
_LEFT_TO_THE_CONTROLLER = (signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Run the command line."""
    name, controller, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(controller):
        sys.exit(1)
    for number in _LEFT_TO_THE_CONTROLLER:
        signal.signal(number, signal.SIG_IGN)
    try:
        status = end_of_worker(name, command)
    except OSError:
        for number in _LEFT_TO_THE_CONTROLLER:
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], command)  # noqa: S606 - what execnet would have started
    if status < 0:
        with contextlib.suppress(OSError):  # nothing can be told of SIGKILL
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def end_of_worker(name: str, command: list[str]) -> int:
    """Have a worker forked, and return how it ended: its exit status, negative for a signal.

    Raises:
        OSError: there is no server, or it forks none.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"\0{name}")
        folder = os.getcwd()  # noqa: PTH109 - pathlib takes longer to import than all that is done here
        order = json.dumps({"command": command, "folder": folder, "environment": dict(os.environ)}).encode()
        socket.send_fds(server, [LENGTH.pack(len(order))], [0, 1, 2])
        server.sendall(order)
        if server.recv(1) != STARTED:
            raise ConnectionError("no worker was forked")
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):  # the worker's alone, so that its end can be seen
            os.dup2(nothing, descriptor)
        with server.makefile("rb") as stream:
            status = stream.read()
    return int(status) if status else -signal.SIGKILL  # the server is gone, and its workers with it


if __name__ == "__main__":
    main()
