"""What the controller notes down in ``logs/controller.jsonl``: the session, its workers, and what they did."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from pytest_proofpack.plugin.xdist_processes import WorkerProcesses
from pytest_proofpack.runs.journal import LIMIT, Journal, shorten
from pytest_proofpack.runs.paths import LOGS
from pytest_proofpack.runs.run import Run


class SessionLog:
    """Registered in the controller."""

    def __init__(self, run: Run, journal: Journal, processes: WorkerProcesses) -> None:
        self._run = run
        self._journal = journal
        self._processes = processes

    def note_begin(self) -> None:
        """Note what the session is to do."""
        counts = {"certificates": len(self._run.items), "reused": len(self._run.reused)}
        self._journal.note("session begins", suite=self._run.suite.name, **counts)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """Note that a worker is there."""
        self._journal.note("worker begins", worker=node.gateway.id)

    @pytest.hookimpl(trylast=True, optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Note that a worker is gone, and how."""
        name = node.gateway.id
        self._journal.note("worker ends", worker=name, how=self._processes.ends.get(name, "by itself"))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Note that the session ends."""
        self._journal.note("session ends", exit_status=int(exitstatus))

    def shorten_all(self) -> None:
        """Keep bounded what workers write to standard error."""
        for path in (self._run.out / LOGS).glob("*.log"):
            with contextlib.suppress(OSError):
                shorten(path, LIMIT)
