"""What runs where, how fast, and how long it will still take: for people who watch, and briefly in a log."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_proofpack.common.words import duration, printable
from pytest_proofpack.plugin.heartbeat import Heartbeat, on_the_main_thread
from pytest_proofpack.plugin.junit import DEVICE, WINDOWS_PER_SECOND
from pytest_proofpack.plugin.xdist_crashes import RETRIED
from pytest_proofpack.plugin.xdist_scheduler import Running, SchedulerHooks

if TYPE_CHECKING:
    from pytest_proofpack.scheduling.costs import Costs, Job

TERMINAL_SECONDS = 10.0
"""Least time between two reports where somebody watches."""
LOG_SECONDS = 60.0
"""The same where output goes into a log."""
HEARTBEAT_SECONDS = 1.0
"""How often it is looked whether another report is due while an item runs."""
LONG_SECONDS = 10.0
"""An item that has run for so long is shown with the time that it has taken."""
_ALONE = "here"
_DEVICE_LENGTH = 12


class Progress:
    """Registered in the controller: now and then writes what is going on, on lines of its own.

    Nothing is ever overwritten, so that it goes with whatever else is shown. Quiet (``-q``) it writes nothing; where
    output does not go to a terminal, or ``CI`` is set, one line per model and otherwise at most one a minute. It
    speaks up when an item begins, and also while one runs for long: many a CI ends a job that says nothing.
    """

    def __init__(self, config: pytest.Config, hooks: SchedulerHooks, session: pytest.Session) -> None:
        self._config = config
        self._hooks = hooks
        self._session = session  # it knows how many items there are
        self._done: set[str] = set()
        self._loads: set[str] = set()
        self._rates: dict[tuple[str, str], float] = {}
        self._devices: dict[str, str] = {}
        self._began: dict[str, float] = {}
        self._shown = -LOG_SECONDS
        self._alone: _Alone | None = None
        self._heartbeat: Heartbeat | None = None
        self._lock = threading.Lock()  # without workers, the heart beats while this process runs an item

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Write what is going on, if it is time to, before pytest begins this item's line."""
        job = self._job(nodeid)
        if job is None:
            return
        with self._lock:
            self._began[nodeid] = time.monotonic()
            if self._hooks.scheduler is None:
                self._alone = self._alone or _Alone(self._hooks)
                self._alone.begin(nodeid)
            new = job.load not in self._loads
            self._loads.add(job.load)
            self._show(now=new)
        if self._heartbeat is None and self._config.get_verbosity() >= 0:
            beat = on_the_main_thread(self._config, "progress", self._beat)
            self._heartbeat = Heartbeat(beat, HEARTBEAT_SECONDS)
            self._heartbeat.start()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Say no more."""
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def _beat(self) -> None:
        """Write what is going on, if it is time to and anything is."""
        with self._lock:
            if self._running():
                self._show()

    def _show(self, *, now: bool = False) -> None:
        if (now or time.monotonic() - self._shown >= self._interval) and self._config.get_verbosity() >= 0:
            self._shown = time.monotonic()
            self._write(self._lines())

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of what is done and how fast it went."""
        job = self._job(report.nodeid)
        if job is not None:
            with self._lock:
                self._note(report, job)

    def _note(self, report: pytest.TestReport, job: Job) -> None:
        worker = _worker(report)
        properties = dict(report.user_properties)
        if WINDOWS_PER_SECOND in properties:
            self._rates[worker, job.load] = float(str(properties[WINDOWS_PER_SECOND]))
            self._devices[worker] = str(properties[DEVICE])
        if self._alone is not None:
            self._alone.add(report.duration)
        if report.when not in {"setup", "call"} and report.outcome != RETRIED:  # torn down, or lost with its worker
            self._done.add(report.nodeid)
            if self._alone is not None:
                self._alone.end()

    @property
    def _interval(self) -> float:
        """Least seconds between two reports."""
        return TERMINAL_SECONDS if self._watched else LOG_SECONDS

    @property
    def _watched(self) -> bool:
        """Whether output goes to a terminal that somebody looks at."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        return bool(reporter is not None and reporter.isatty() and not os.environ.get("CI"))

    def _job(self, nodeid: str) -> Job | None:
        return self._hooks.jobs.get(nodeid)

    def _lines(self) -> list[str]:
        """Return how far the run is, and what runs; one line where nobody watches."""
        total = self._session.testscollected
        head = f"proofpack: {len(self._done)} of {total} done"
        if self._done:  # before that, it would be a guess
            head += f", about {duration(self._seconds_left())} left"
        items = [self._line(item) for item in self._running()]
        return [head, *(f"  {item}" for item in items)] if self._watched else ["; ".join([head, *items])]

    def _line(self, item: Running) -> str:
        job = self._hooks.jobs.get(item.nodeid)
        name = item.nodeid.partition("[")[2].removesuffix("]") or item.nodeid
        where = [] if item.worker == _ALONE else [item.worker]
        kind, device = self._devices.get(item.worker), item.device
        if device is None:
            where += [kind] if kind else []
        else:  # a number, or the beginning of a long identifier
            where.append(f"{kind or 'device'}:{device}" if device.isdecimal() else device[:_DEVICE_LENGTH])
        rate = self._rates.get((item.worker, job.load)) if job is not None else None
        speed = f" ({rate:.3g} windows/s)" if rate is not None else ""
        took = time.monotonic() - self._began.get(item.nodeid, time.monotonic())
        return " ".join([*where, name]) + speed + (f" for {duration(took)}" if took >= LONG_SECONDS else "")

    def _running(self) -> list[Running]:
        if self._hooks.scheduler is not None:
            return self._hooks.scheduler.running()
        return [Running(self._alone.nodeid, _ALONE, None)] if self._alone is not None else []

    def _seconds_left(self) -> float:
        if self._hooks.scheduler is not None:
            return self._hooks.scheduler.assignment.seconds_left(time.monotonic())
        if self._alone is None:
            return 0.0
        return self._alone.seconds_left({item.nodeid for item in self._session.items} - self._done)

    def _write(self, lines: list[str]) -> None:
        manager = self._config.pluginmanager
        reporter, capture = manager.get_plugin("terminalreporter"), manager.get_plugin("capturemanager")
        if reporter is None:
            return
        # While an item runs in this process, pytest keeps whatever is written; live logging gets past it in this way.
        with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
            reporter.ensure_newline()
            writer = self._config.get_terminal_writer()
            if writer.width_of_current_line:  # dots
                writer.line()
            for line in lines:
                reporter.write_line(printable(line))


class _Alone:
    """The run without workers: one item after the other, in this process."""

    def __init__(self, hooks: SchedulerHooks) -> None:
        self._jobs = hooks.jobs
        self._costs: Costs = hooks.costs()
        self._held: str | None = None
        self._seconds = 0.0
        self.nodeid = ""

    def begin(self, nodeid: str) -> None:
        """Take note that an item begins."""
        self.nodeid, self._seconds = nodeid, 0.0

    def add(self, seconds: float) -> None:
        """Take note that a phase of it took so long."""
        self._seconds += seconds

    def end(self) -> None:
        """Take note that it is done."""
        job = self._jobs[self.nodeid]
        self._costs.observe(job, self._seconds, loaded=job.load != self._held)
        self._held = job.load

    def seconds_left(self, nodeids: set[str]) -> float:
        """Return how long these items should take."""
        rest = [job for nodeid, job in self._jobs.items() if nodeid in nodeids]
        loads = {job.load for job in rest} - {self._held}
        return sum(map(self._costs.seconds, rest)) + sum(map(self._costs.load_seconds, loads))


def _worker(report: pytest.TestReport) -> str:
    node = getattr(report, "node", None)
    return _ALONE if node is None else str(node.gateway.id)
