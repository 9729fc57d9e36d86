"""Items that take much longer than was forecast: named, not waited for, and in the end ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_proofpack.common.words import duration
from pytest_proofpack.plugin.heartbeat import Heartbeat, on_the_main_thread
from pytest_proofpack.plugin.terminal import speaker
from pytest_proofpack.scheduling.assignment import RunningJob

if TYPE_CHECKING:
    from pytest_proofpack.plugin.xdist_processes import WorkerProcesses
    from pytest_proofpack.plugin.xdist_scheduler import SchedulerHooks

LOOK_SECONDS = 1.0
"""How often the controller looks."""
LIMIT_FACTOR = 20.0
"""A worker is ended whose item has taken so many times what was forecast,"""
LIMIT_SECONDS = 600.0
"""and at least so many seconds, unless ``--proofpack-timeout`` says how many."""


class Limits(NamedTuple):
    """How long items may take.

    Attributes:
        timeout: seconds; None for the default.
        waiting: seconds that a worker may wait for devices, which do not count.
    """

    timeout: float | None
    waiting: float

    def of(self, item: RunningJob) -> float:
        """Return how many seconds an item may take before its worker is ended."""
        limit = self.timeout or max(LIMIT_SECONDS, LIMIT_FACTOR * item.forecast)
        return limit if item.placed else limit + self.waiting


class Overdue:
    """Registered in the controller: watches what its workers run.

    Args:
        config: of the session.
        hooks: of the scheduler, which knows what runs.
        processes: the workers.
        limits: how long items may take.
        besides: what else is to be done whenever it looks.
    """

    def __init__(
        self,
        config: pytest.Config,
        hooks: SchedulerHooks,
        processes: WorkerProcesses,
        limits: Limits,
        besides: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._hooks = hooks
        self._processes = processes
        self._limits = limits
        self._besides = besides
        self._named: set[tuple[str, int]] = set()
        self._heartbeat: Heartbeat | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self) -> None:
        """Begin to look."""
        if self._heartbeat is None:
            beat = on_the_main_thread(self._config, "overdue", self._look)
            self._heartbeat = Heartbeat(beat, LOOK_SECONDS)
            self._heartbeat.start()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Look no more."""
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def _look(self) -> None:
        scheduler = self._hooks.scheduler
        if scheduler is None:
            return
        items = scheduler.assignment.running(time.monotonic())
        for item in items:
            worker, name = scheduler.named(item)
            if item.seconds > self._limits.of(item):
                self._end(worker, item)
            elif item.overdue and (item.slot, item.job.index) not in self._named:
                self._named.add((item.slot, item.job.index))
                self._name(worker, name, item)
        if any(item.overdue for item in items):
            scheduler.look_again()
        self._besides()

    def _name(self, worker: str, name: str, item: RunningJob) -> None:
        taken, expected = duration(item.seconds), duration(item.forecast)
        line = f"overdue: {worker} has been at {name} for {taken}, and {expected} were forecast"
        speaker(self._config)(f"{line}; it is ended after {duration(self._limits.of(item))}")

    def _end(self, worker: str, item: RunningJob) -> None:
        option = "--proofpack-timeout" if self._limits.timeout else f"the forecast was {duration(item.forecast)}"
        self._processes.end(worker, f"because its item took longer than {duration(self._limits.of(item))} ({option})")
