"""The processes of xdist's workers, as the controller sees them: how one ended, and how to end them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

_PATIENCE = 2.0
"""Seconds for a process that is ended, or has closed its connection, to be gone."""
_LAST_PATIENCE = 10.0
"""Seconds for one that ends by itself, which xdist gives it too."""


class WorkerProcesses:
    """Registered in the controller. Knows every worker that xdist has started.

    Attributes:
        ends: how workers ended that did not end by themselves, by name: ``by signal 9 (SIGKILL)``.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._nodes: list[WorkerController] = []
        self._reasons: dict[str, str] = {}
        self._oom = OomKills()
        self._leaving: list[Any] = []
        self.ends: dict[str, str] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        """Take note of a new worker."""
        self._nodes.append(node)

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_testnodedown(self, node: WorkerController, error: object) -> None:
        """Find out how a worker ended; one that has done its part ends now, beside what is left for the controller."""
        if node in self._nodes:
            self._nodes.remove(node)
        if error:
            self.ends[node.gateway.id] = self._reasons.get(node.gateway.id) or self._how_it_ended(node)
        elif (process := _process(node)) is not None and not any(other.gateway.spec.via for other in self._nodes):
            self._leaving.append(process)
            node.gateway.exit()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Wait for workers that end by themselves: xdist waits only for those that it has told to."""
        for process in self._leaving:
            try:
                process.wait(_LAST_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()

    def end(self, name: str, reason: str) -> None:
        """End a worker at once; xdist notices, and treats it like any that died.

        Args:
            name: of the worker.
            reason: what :attr:`ends` is to say of it.
        """
        self._reasons[name] = reason
        for node in self._nodes:
            if node.gateway.id == name:
                _kill(node)

    def end_all(self) -> None:
        """End every worker at once, and take what they have reported until then."""
        for node in self._nodes:
            _kill(node)
        dsession: Any = self._config.pluginmanager.get_plugin("dsession")
        left, deadline = set(map(id, self._nodes)), time.monotonic() + _PATIENCE
        while left and time.monotonic() < deadline:
            try:
                event, facts = dsession.queue.get(timeout=0.1)
            except Empty:
                continue
            if event in {"errordown", "workerfinished"}:  # nothing comes after that
                left.discard(id(facts["node"]))
            elif event == "testreport":
                facts["rep"].node = facts["node"]
                self._config.hook.pytest_runtest_logreport(report=facts["rep"])
        self._nodes.clear()

    def _how_it_ended(self, node: WorkerController) -> str:
        process = _process(node)
        try:
            status = None if process is None else process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            status = None
        if status is None or node.gateway.spec.ssh:
            return "because its connection was lost"
        if status >= 0:
            return f"with exit status {status}"
        memory = ", perhaps out of memory: the kernel says that it ended a process for want of it"
        perhaps = memory if status == -signal.SIGKILL and self._oom.more() else ""
        return f"by {signal_name(-status)}{perhaps}"


class OomKills:
    """How many processes the kernel has ended because memory had run out, of this control group if it counts them."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._file = next((file for file in _counters(root) if _count(file) is not None), None)
        self._known = self._look()

    def more(self) -> bool:
        """Tell whether there are more than when it was last asked, or made."""
        before, self._known = self._known, self._look()
        return self._known > before

    def _look(self) -> int:
        return 0 if self._file is None else _count(self._file) or 0


def signal_name(number: int) -> str:
    """Return a signal for people: ``signal 9 (SIGKILL)``."""
    with contextlib.suppress(ValueError):
        return f"signal {number} ({signal.Signals(number).name})"
    return f"signal {number}"


def _counters(root: Path) -> list[Path]:
    """Return files of the kernel's that may count processes ended for want of memory, the closest to us first."""
    mounts = root / "sys/fs/cgroup"
    found = []
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            inside = group.strip("/")
            if not controllers:
                found += [mounts / inside / "memory.events", mounts / "memory.events"]
            elif "memory" in controllers.split(","):
                found += [mounts / "memory" / inside / "memory.oom_control", mounts / "memory/memory.oom_control"]
    return [*found, root / "proc/vmstat"]


def _count(file: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def _process(node: WorkerController) -> Any | None:
    """Return the local process of a worker; execnet has no public way to it."""
    return getattr(getattr(node.gateway, "_io", None), "popen", None)


def _kill(node: WorkerController) -> None:
    process = _process(node)
    if process is not None:
        process.kill()
    else:  # behind another worker: at least nothing more comes from it
        node.gateway.exit()
