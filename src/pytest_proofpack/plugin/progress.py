"""What runs where, how fast, and how long it will still take: for people who watch, and briefly in a log."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_proofpack.common.words import duration, printable, time_left
from pytest_proofpack.plugin.heartbeat import Heartbeat, on_the_main_thread
from pytest_proofpack.plugin.junit import DEVICE, WINDOWS_PER_SECOND
from pytest_proofpack.plugin.live_block import LiveBlock, watched
from pytest_proofpack.plugin.phases import phase_words, tell_phases
from pytest_proofpack.plugin.terminal import begin_line, item_name, uncaptured
from pytest_proofpack.plugin.xdist_crashes import RETRIED
from pytest_proofpack.plugin.xdist_scheduler import Running, SchedulerHooks

if TYPE_CHECKING:
    from pytest_proofpack.scheduling.costs import Costs, Job

LOG_SECONDS = 60.0
"""Least time between two reports where output goes into a log."""
HEARTBEAT_SECONDS = 1.0
"""How often a terminal shows what is going on anew, and it is looked whether a log is due another report."""
LONG_SECONDS = 10.0
"""An item that has run for so long is shown with the time that it has taken."""
_ALONE = "here"
_DEVICE_LENGTH = 12


class Progress:
    """Registered in the controller: shows what is going on.

    On a terminal that is a block of lines below pytest's own, redrawn in place every second. Where output does not go
    to a terminal, or ``CI`` is set, it is a line of its own, one per model and otherwise at most one a minute; also
    while an item runs for long, since many a CI ends a job that says nothing. Quiet (``-q``) there is neither.
    """

    def __init__(
        self, config: pytest.Config, hooks: SchedulerHooks, session: pytest.Session, null_draws: int = 0
    ) -> None:
        """Show nothing yet.

        Args:
            config: of the session.
            hooks: they know what there is to do, and who does it.
            session: it knows how many items there are.
            null_draws: how many draws the calibration of a model takes.
        """
        self._config = config
        self._hooks = hooks
        self._session = session
        self._null_draws = null_draws
        self._done: set[str] = set()
        self._loads: set[str] = set()
        self._rates: dict[tuple[str, str], float] = {}
        self._devices: dict[str, str] = {}
        self._began: dict[str, float] = {}
        self._shown = -LOG_SECONDS
        self._alone: _Alone | None = None
        self._heartbeat: Heartbeat | None = None
        self._block: LiveBlock | None = None
        self._lock = threading.Lock()  # without workers, the heart beats while this process runs an item

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Write what is going on, if it is time to, before pytest begins this item's line."""
        job = self._job(nodeid)
        if job is None:
            return
        with self._lock:
            self._began[nodeid] = time.monotonic()
            if self._block is None and self._config.get_verbosity() >= 0 and watched(self._config):
                self._block = LiveBlock(self._config)
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
        if self._block is not None:
            self._block.close()
            self._block = None

    def _beat(self) -> None:
        """Write what is going on, if it is time to and anything is."""
        with self._lock:
            if self._running():
                self._show()

    def _show(self, *, now: bool = False) -> None:
        if self._block is not None:
            self._block.draw([printable(line) for line in self._lines()])
        elif (now or time.monotonic() - self._shown >= LOG_SECONDS) and self._config.get_verbosity() >= 0:
            self._shown = time.monotonic()
            self._write("; ".join(self._lines()))

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

    def _job(self, nodeid: str) -> Job | None:
        return self._hooks.jobs.get(nodeid)

    def _lines(self) -> list[str]:
        """Return how far the run is, and what runs."""
        total = self._session.testscollected
        head = f"proofpack: {len(self._done)} of {total} done"
        left = self._seconds_left() if self._done else None
        if left is not None:  # before that, it would be a guess
            head += f", {time_left(left)}"
        items = [self._line(item) for item in self._running()]
        return [head, *(f"  {item}" if self._block is not None else item for item in items)]

    def _line(self, item: Running) -> str:
        job = self._hooks.jobs.get(item.nodeid)
        name = item_name(item.nodeid)
        where = [] if item.worker == _ALONE else [item.worker]
        kind, device = self._devices.get(item.worker), item.device
        if device is None:
            where += [kind] if kind else []
        else:  # a number, or the beginning of a long identifier
            where.append(f"{kind or 'device'}:{device}" if device.isdecimal() else device[:_DEVICE_LENGTH])
        rate = self._rates.get((item.worker, job.load)) if job is not None else None
        speed = f" ({rate:.3g} windows/s)" if rate is not None else ""
        took = time.monotonic() - self._began.get(item.nodeid, time.monotonic())
        doing = f" {phase_words(item.phase, self._null_draws)}" if item.phase is not None else ""
        long = f" for {duration(took)}" if took >= LONG_SECONDS else ""
        return " ".join([*where, name]) + doing + long + speed

    def _running(self) -> list[Running]:
        if self._hooks.scheduler is not None:
            return self._hooks.scheduler.running()
        return [Running(self._alone.nodeid, _ALONE, None, self._alone.phase)] if self._alone is not None else []

    def _seconds_left(self) -> float | None:
        if self._hooks.scheduler is not None:
            assignment = self._hooks.scheduler.assignment
            return assignment.seconds_left(time.monotonic()) if assignment.costs.told else None
        if self._alone is None or not self._alone.costs.told:
            return None
        return self._alone.seconds_left({item.nodeid for item in self._session.items} - self._done)

    def _write(self, line: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        with uncaptured(self._config):
            begin_line(self._config, reporter)
            reporter.write_line(printable(line))


class _Alone:
    """The run without workers: one item after the other, in this process."""

    def __init__(self, hooks: SchedulerHooks) -> None:
        self._jobs = hooks.jobs
        self.costs: Costs = hooks.costs()
        self._held: str | None = None
        self._seconds = 0.0
        self.nodeid = ""
        self.phase: int | None = None
        self._began = 0.0
        tell_phases(self._enter)

    def begin(self, nodeid: str) -> None:
        """Take note that an item begins."""
        self.nodeid, self._seconds, self.phase = nodeid, 0.0, None
        self._began = time.monotonic()

    def add(self, seconds: float) -> None:
        """Take note that a phase of it took so long."""
        self._seconds += seconds

    def end(self) -> None:
        """Take note that it is done."""
        job = self._jobs[self.nodeid]
        self.costs.observe(job, self._seconds, loaded=job.load != self._held)
        self._held = job.load

    def _enter(self, phase: int) -> None:
        self.phase = phase

    def seconds_left(self, nodeids: set[str]) -> float:
        """Return how long these items should take."""
        rest = [job for nodeid, job in self._jobs.items() if nodeid in nodeids]
        loads = {job.load for job in rest} - {self._held}
        running = self.costs.seconds(self._jobs[self.nodeid]) if self.nodeid in nodeids else 0.0
        gone = min(running, time.monotonic() - self._began)
        return sum(map(self.costs.seconds, rest)) + sum(map(self.costs.load_seconds, loads)) - gone


def _worker(report: pytest.TestReport) -> str:
    node = getattr(report, "node", None)
    return _ALONE if node is None else str(node.gateway.id)
