"""The fork server: imports what certifying takes from other packages, then forks a worker for whoever connects.

    python -P server.py DESCRIPTOR CONTROLLER MODULE ...

A program of its own, run by its path: nothing of pytest or of xdist is imported before the fork, and what is of this
package is forgotten, so that pytest can rewrite what it wants to, and a worker differs from one that is started as
usual by nothing but what is in memory already. It serves the listening socket that it inherits under that descriptor,
and lives as long as the controller keeps its standard input open; workers live as long as it does. It closes its
standard output when it can fork, after a byte, or can't. ``client.py`` is who connects.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import types
import warnings
from importlib.metadata import entry_points
from typing import NamedTuple

from pytest_proofpack.common.heavy_imports import heavy_imports

LENGTH = struct.Struct("!I")
READY, STARTED = b"+", b"+"
_DESCRIPTORS = 3
"""Standard input, output and error of a worker."""
_IGNORED = (signal.SIGINT, signal.SIGHUP)
"""The controller gets these too, and decides."""
_PATIENCE = 10.0
"""Seconds for a client to say what it wants."""
_PEER = struct.Struct("iII")
"""Process, user and group at the other end of a socket."""
_PR_SET_PDEATHSIG = 1


class Order(NamedTuple):
    """What a client asks for.

    Attributes:
        command: what it would run without a server: Python and its arguments.
        folder: where.
        environment: the worker's.
    """

    command: list[str]
    folder: str
    environment: dict[str, str]


def main() -> None:
    """Import, then serve until the controller lets go; in a worker, be that worker."""
    descriptor, controller, *modules = sys.argv[1:]
    _die_with_parent(int(controller))
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever modules say while they are imported is not the answer
    with heavy_imports():
        for name in modules:
            importlib.import_module(name)
    _forget_plugins()
    if threading.active_count() > 1:
        return  # a thread does not survive a fork; clients start processes of their own
    gc.freeze()  # what is there stays shared with those that are forked
    os.write(answer, READY)
    os.close(answer)
    order = Server(socket.socket(fileno=int(descriptor))).serve()
    if order is None:
        os._exit(0)  # taking apart what was imported takes half a second
    become_worker(order)


class Server:
    """Forks workers and looks after them, each for one client."""

    def __init__(self, listener: socket.socket) -> None:
        """Serve nobody yet."""
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()

    def serve(self) -> Order | None:
        """Fork workers until the controller lets go, then end those that are left.

        Returns:
            in a worker, what it is to do; None in the server, at its end.
        """
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        control = 0
        for source in (control, self._woken, self._listener):
            self._selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == control:
                    for process in list(self._clients):
                        self._abandon(process)
                    return None
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._reap()
                elif key.fileobj is self._listener:
                    if (order := self._accept()) is not None:
                        return order
                elif key.data in self._clients:  # it says nothing more, so it is gone
                    self._abandon(key.data)

    def _accept(self) -> Order | None:
        """Fork a worker for a client; return what it is to do, in the worker."""
        client, _ = self._listener.accept()
        server = os.getpid()
        descriptors: list[int] = []
        try:
            client.settimeout(_PATIENCE)
            if _user_of(client) != os.getuid():
                raise PermissionError("a process of another user")
            order, descriptors = _received(client)
            process = _fork()
        except OSError:
            _close(descriptors)
            client.close()
            return None
        if process == 0:
            _die_with_parent(server)
            self._leave_to_server(client)
            _take(descriptors)
            return order
        _close(descriptors)
        self._clients[process] = client
        self._selector.register(client, selectors.EVENT_READ, process)
        _send(client, STARTED)
        return None

    def _leave_to_server(self, client: socket.socket) -> None:
        """In a worker, let go of everything that is the server's."""
        signal.set_wakeup_fd(-1)
        for number in (*_IGNORED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for end in (client, self._listener, self._woken, self._waker, *self._clients.values()):
            end.close()

    def _reap(self) -> None:
        """Tell clients how their workers ended."""
        for process, client in list(self._clients.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                self._selector.unregister(client)
                with self._clients.pop(process):
                    _send(client, f"{os.waitstatus_to_exitcode(status)}".encode())

    def _abandon(self, process: int) -> None:
        """End a worker whose client is gone: somebody has ended that one in its place."""
        self._selector.unregister(self._clients[process])
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        self._clients.pop(process).close()


def become_worker(order: Order) -> None:
    """Be ``python -u -c CODE``; start it as usual if torch has used a driver that does not survive a fork."""
    os.chdir(order.folder)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda._is_in_bad_fork():  # its only word on that
        os.execve(order.command[0], order.command, order.environment)  # noqa: S606 - what execnet would have started
    os.environ.clear()
    os.environ.update(order.environment)
    sys.argv[:] = ["-c"]
    if "PYTHONSAFEPATH" not in order.environment:
        sys.path.insert(0, "")
    encoding = sys.__stdout__.encoding if sys.__stdout__ else None
    standard = open(0, encoding=encoding, closefd=False), open(1, "w", 1, encoding, closefd=False)  # noqa: SIM115
    sys.stdin, sys.stdout = sys.__stdin__, sys.__stdout__ = standard  # type: ignore[misc]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        exec(order.command[-1], vars(sys.modules["__main__"]))  # noqa: S102 - as execnet starts every worker
    except BrokenPipeError:  # the controller is gone
        os._exit(1)


def _forget_plugins() -> None:
    """Let packages that are plugins of pytest too be imported anew: pytest wants to be the first who does."""
    own = {point.value.partition(":")[0].partition(".")[0] for point in entry_points(group="pytest11")}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]


def _die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends; or now, if it has."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _fork() -> int:
    with warnings.catch_warnings(action="ignore"):  # numpy's own threads are ended before, and begun anew after
        return os.fork()


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _take(descriptors: list[int]) -> None:
    """Make descriptors the standard ones of this process."""
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
    _close(descriptors)


def _user_of(client: socket.socket) -> int:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    user: int = _PEER.unpack(credentials)[1]
    return user


def _received(client: socket.socket) -> tuple[Order, list[int]]:
    """Return what a client asks for, and the descriptors that come with it.

    Raises:
        OSError: it asks for nothing that is understood.
    """
    head, descriptors, _, _ = socket.recv_fds(client, LENGTH.size, _DESCRIPTORS)
    try:
        (length,) = LENGTH.unpack(head)
        with client.makefile("rb") as stream:
            return Order(**json.loads(stream.read(length))), list(descriptors)
    except (struct.error, TypeError, ValueError) as error:
        _close(list(descriptors))
        raise ConnectionError("no order") from error


def _send(client: socket.socket, data: bytes) -> None:
    try:
        client.sendall(data)
    except OSError:
        return  # it has been ended meanwhile


if __name__ == "__main__":
    main()
