"""``--proofpack-ray``: the certificates of a session are made by processes of a Ray cluster.

Every item runs here as without workers, once its certificate has come, so reports, progress, storing and the end are
those of any session. Which process makes what next is decided by ``scheduling/assignment``; see there.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plugin.making import DELIVERED, REQUEST, Delivered
from pytest_proofpack.plugin.ray_actor import Answer
from pytest_proofpack.plugin.ray_cluster import Event, RayCluster, connected
from pytest_proofpack.plugin.terminal import say, usage_error
from pytest_proofpack.plugin.worker_input import WorkerInput
from pytest_proofpack.plugin.xdist_scheduler import SchedulerHooks
from pytest_proofpack.runs.run import Run
from pytest_proofpack.scheduling.assignment import Assignment, Release, Start

if TYPE_CHECKING:
    from pytest_proofpack.plan.records import CertificateRequest
    from pytest_proofpack.scheduling.costs import Job

TRIES = 3
"""How often an item is tried whose process dies."""
_LOOK_SECONDS = 1.0
_TOGETHER_SECONDS = 30.0
"""So long after the first process is ready, others of the beginning are waited for: the largest model begins first."""
_WAITING_SECONDS = 60.0
"""So long nothing runs before it is said that Ray is waited for."""


class RayLoop:
    """Registered in the controller: runs the session's items in place of pytest's own loop."""

    def __init__(self, config: pytest.Config, run: Run, scheduler: SchedulerHooks, *, uses_gpus: bool) -> None:
        """Do nothing yet.

        Args:
            config: of the session.
            run: the run.
            scheduler: knows the jobs of the items, and what they cost.
            uses_gpus: whether certificates are made on GPUs.
        """
        self._config = config
        self._run = run
        self._scheduler = scheduler
        self._uses_gpus = uses_gpus
        self._delivered: dict[str, Delivered] = {}
        config.stash[DELIVERED] = self._delivered

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run what needs no process of the cluster here, then the rest as it comes."""
        option = self._config.option
        if option.collectonly or (session.testsfailed and not option.continue_on_collection_errors):
            return None  # pytest's own loop says why
        far = {item.nodeid: item for item in session.items if self._goes_far(item)}
        for item in session.items:
            if item.nodeid not in far:
                _run_item(session, item)
        if far:
            jobs = {job.index: item for nodeid, item in far.items() for job in [self._scheduler.jobs[nodeid]]}
            given = WorkerInput.of_run(self._run, one_at_a_time=True)
            try:
                with connected(str(self._run.settings.ray), given.to_text(), uses_gpus=self._uses_gpus) as cluster:
                    carry_out(self, session, cluster, jobs)
            except ConfigurationError as error:
                raise usage_error(error) from error
        return True

    def _goes_far(self, item: pytest.Item) -> bool:
        """Tell whether an item's certificate is to be made elsewhere."""
        return item.nodeid in self._scheduler.jobs and _request_of(item).id not in self._run.reused

    def deliver(self, session: pytest.Session, item: pytest.Item, answer: Answer) -> None:
        """Run an item whose certificate has come, or will not."""
        request = _request_of(item)
        self._delivered[request.id] = Delivered(answer.text, answer.failure, request.repeat)
        _run_item(session, item)
        del self._delivered[request.id]

    def new_assignment(self, indices: set[int], home: str) -> Assignment:
        """Return the state of the work, of a session on the node ``home``: nothing of it is done."""
        jobs = [job for job in self._scheduler.jobs.values() if job.index in indices]
        return Assignment(jobs, self._scheduler.costs(), home)

    def say(self, line: str) -> None:
        """Show a line."""
        say(self._config, line)


def carry_out(loop: RayLoop, session: pytest.Session, cluster: RayCluster, items: dict[int, pytest.Item]) -> None:
    """Have a cluster make the certificates of items, by their positions in the run, and run each when its has come.

    Raises:
        ConfigurationError: no process of the cluster can make any.
    """
    _Work(loop, session, cluster, items).carry_out()


class _Work:
    """The items that a cluster makes: who has which, how often each was lost, which processes there are."""

    def __init__(
        self, loop: RayLoop, session: pytest.Session, cluster: RayCluster, items: dict[int, pytest.Item]
    ) -> None:
        self._loop = loop
        self._session = session
        self._cluster = cluster
        self._items = dict(items)
        self._assignment = loop.new_assignment(set(items), cluster.home)
        self._lost: dict[int, int] = {}
        self._ready: set[str] = set()
        self._unfit: set[str] = set()
        self._starting: set[str] = set()
        self._begins_at: float | None = None
        self._waiting_since = time.monotonic()

    def carry_out(self) -> None:
        """Go on until every item has its certificate or the reason why there is none."""
        most = max(1, min(self._cluster.slots, len(self._items)))
        for number in range(most):
            self._starting.add(f"ray{number}")
            self._cluster.start(f"ray{number}")
        self._loop.say(f"Ray: {most} processes asked for")
        while self._items:
            for event in self._cluster.events(_LOOK_SECONDS):
                self._take(event)
            if self._gathered():
                self._tell_orders()
            self._mind_waiting()

    def _take(self, event: Event) -> None:
        now = time.monotonic()
        self._starting.discard(event.slot)
        if event.kind == "ready":
            self._ready.add(event.slot)
            self._assignment.add_slot(event.slot, event.node)
        elif event.kind == "made":
            if self._assignment.complete(event.slot, event.number, now):
                self._loop.deliver(self._session, self._items.pop(event.number), event.answer)
        elif event.kind == "released":
            self._assignment.released(event.slot)
        elif event.kind == "unfit":  # it stays, so that Ray starts no other one there
            self._loop.say(printable(f"Ray: nothing is made on node {event.node[:8]}: {event.why}"))
            self._require_hope(event.slot)
        else:
            self._replace(event)

    def _gathered(self) -> bool:
        """Tell whether all processes of the beginning are there, or have been waited for long enough."""
        if self._begins_at is None and self._ready:
            self._begins_at = time.monotonic() + _TOGETHER_SECONDS
        return not self._starting or (self._begins_at is not None and time.monotonic() >= self._begins_at)

    def _replace(self, event: Event) -> None:
        """Give back what a process had that is gone, and have Ray start another one."""
        if event.slot in self._ready:
            self._ready.discard(event.slot)
            self._give_back(self._assignment.remove_slot(event.slot), event.why)
            self._cluster.start(event.slot)
        else:
            self._loop.say(printable(f"Ray: a process did not start: {event.why}"))
            self._require_hope(event.slot)

    def _give_back(self, jobs: list[Job], why: str) -> None:
        for job in jobs:
            lost = self._lost[job.index] = self._lost.get(job.index, 0) + 1
            name = _request_of(self._items[job.index]).id
            if lost < TRIES:
                self._loop.say(printable(f"Ray: the process of {name} is gone ({why}); it is made again"))
                self._assignment.give_back([job])
            else:
                failure = f"{name}: the processes that made it died {lost} times, the last one: {why}"
                self._loop.deliver(self._session, self._items.pop(job.index), Answer(None, failure))

    def _require_hope(self, slot: str) -> None:
        """Give up if there is no process left that could make anything.

        Raises:
            ConfigurationError: there is none.
        """
        self._unfit.add(slot)
        if not self._ready and len(self._unfit) >= max(1, min(self._cluster.slots, len(self._items))):
            raise ConfigurationError(
                "--proofpack-ray: no process of the cluster can make certificates; why, each has said above. Mend it "
                "and go on with --proofpack-resume."
            )

    def _tell_orders(self) -> None:
        for order in self._assignment.decide(time.monotonic()):
            if isinstance(order, Start):
                self._cluster.make(order.slot, order.job.index, order.borrowed)
            elif isinstance(order, Release):
                self._cluster.release(order.slot)

    def _mind_waiting(self) -> None:
        """Say that nothing runs because Ray has no room, now and then."""
        now = time.monotonic()
        if self._assignment.busy:
            self._waiting_since = now
        elif now - self._waiting_since > _WAITING_SECONDS:
            self._waiting_since = now
            self._loop.say("Ray: waiting for a process; the cluster has no room, or its nodes are gone")


def _request_of(item: pytest.Item) -> CertificateRequest:
    request: CertificateRequest = cast("Any", item).callspec.params[REQUEST]
    return request


def _run_item(session: pytest.Session, item: pytest.Item) -> None:
    """Run an item as pytest's own loop does, with what is asked of it afterwards."""
    session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
