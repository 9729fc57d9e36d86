"""The scheduler of pytest-xdist for a proof pack: tells workers what the policy in ``scheduling`` decides.

It counts for itself what is done: the run is over when every item was reported finished by the worker that had it, or
when what is left can run nowhere. What then lacks a certificate, the verdict finds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from xdist.scheduler.protocol import Scheduling

from pytest_proofpack.plugin.making import nodeids
from pytest_proofpack.plugin.terminal import item_name, tell, wrapped
from pytest_proofpack.plugin.xdist_hosts import host_of
from pytest_proofpack.plugin.xdist_worker import BORROW, PHASE, PLACED, RELEASE, RELEASED, fits
from pytest_proofpack.scheduling.assignment import Assignment, Release, RunningJob, Start
from pytest_proofpack.scheduling.costs import Costs, Job, Load
from pytest_proofpack.scheduling.workload import DeviceFacts, Workload, workload

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

    from pytest_proofpack.engine.inputs import CheckedInputs
    from pytest_proofpack.runs.run import Run

OTHERS = Load("other tests", 0.0)
"""What tests of the user's own need loaded, if they named some beside the suite, and items that reuse a certificate."""
_OTHER_SECONDS = 1.0
_REUSED = "reused"
_REUSED_SECONDS = 0.02
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""Variables that show a worker its devices, its own first; an empty one shows it none."""


class WorkerLocation(NamedTuple):
    """Where a worker computes.

    Attributes:
        host: its host; empty for this one.
        device: the device that it was given, as ``CUDA_VISIBLE_DEVICES`` names it; None if none was.
        slot: name of its device slot: that of the first worker there; None if there was none left for it.
    """

    host: str
    device: str | None
    slot: str | None


class Running(NamedTuple):
    """An item that runs: its node id, the name of its worker, the worker's device and the item's phase, if known."""

    nodeid: str
    worker: str
    device: str | None
    phase: int | None = None


class SchedulerHooks:
    """Registered in the controller: gives xdist our scheduler.

    Attributes:
        scheduler: the scheduler, once workers are there; None without xdist.
    """

    def __init__(self, config: pytest.Config, run: Run, inputs: CheckedInputs, facts: DeviceFacts) -> None:
        self._config = config
        self._run = run
        self._inputs = inputs
        self._facts = facts
        self._locations: dict[int, WorkerLocation] = {}
        self.scheduler: SuiteScheduling | None = None

    @pytest.hookimpl(trylast=True, optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[Any]) -> None:
        """Give every worker its device slot, in their order, once whoever gives them devices has done so."""
        self._locations = worker_locations(specs, self._facts.slots)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> SuiteScheduling:
        """Return our scheduler, whatever ``--dist`` says."""
        self.scheduler = SuiteScheduling(config, self.jobs, self.costs(), self._locations)
        return self.scheduler

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """The run's items by node id; ``Job.index`` is the position among them."""
        run = self._run
        jobs = {}
        for nodeid, request, job in zip(nodeids(run), run.items, self._workload.jobs, strict=True):
            reused = request.id in run.reused
            jobs[nodeid] = Job(job.index, OTHERS.id, _REUSED, _REUSED_SECONDS) if reused else job
        return jobs

    def costs(self) -> Costs:
        """Return what certificates and loads cost, as far as known before any was made."""
        return Costs([*self._workload.loads, OTHERS])

    @cached_property
    def _workload(self) -> Workload:
        return workload(self._run, lambda spec: self._inputs.prepare(spec).plan, self._facts)

    def pytest_report_header(self) -> list[str]:
        """Warn if this xdist is built otherwise than we know."""
        if not getattr(self._config.option, "tx", None) or fits():
            return []
        return wrapped(
            self._config,
            f"proofpack: WARNING: workers of pytest-xdist {version('pytest-xdist')} cannot be made to take one item at "
            "a time; each holds one back while it runs another",
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which workers had nothing to do, and what could run nowhere."""
        for line in self.scheduler.remarks() if self.scheduler is not None else ():
            tell(terminalreporter, f"proofpack: {line}")


class SuiteScheduling(Scheduling):
    """The scheduler, as xdist asks for it; every call comes on the controller's one thread.

    Args:
        config: of the session.
        jobs: the suite's certificates by node id; ``Job.index`` is replaced by the position in the collection.
        costs: what they cost.
        locations: of the workers, see :func:`worker_locations`.

    Attributes:
        config: of the session; plugins that run items again after a crash look for it here.
        assignment: who does what.
    """

    def __init__(
        self, config: pytest.Config, jobs: Mapping[str, Job], costs: Costs, locations: Mapping[int, WorkerLocation]
    ) -> None:
        self.assignment = Assignment((), costs)
        self.config = config
        self._known = jobs
        self._locations = locations
        self._expected = len(locations)
        self._one_at_a_time = fits()
        self._nodes: list[WorkerController] = []
        self._collections: dict[WorkerController, list[str]] = {}
        self._ids: list[str] | None = None
        self._jobs: list[Job] = []
        self._slots: dict[WorkerController, str] = {}
        self._used: set[str] = set()
        self._homeless: list[Job] = []
        self._again: list[Job] = []
        self._phases: dict[WorkerController, int] = {}

    # ------------------------------------------------------------------------------- what xdist asks and tells

    @property
    def nodes(self) -> list[WorkerController]:
        """Every worker that has said that it is there."""
        return list(self._nodes)

    @property
    def collection_is_completed(self) -> bool:
        """Whether every worker of the beginning has collected the items."""
        return self._ids is not None or len(self._collections) >= self._expected

    @property
    def tests_finished(self) -> bool:
        """Whether nothing is left to do, or nothing of what is left can run on the workers that there are."""
        if self._ids is None:
            return self.collection_is_completed  # they have collected different items
        if self._again:
            return False
        begun = 0 if self._one_at_a_time else 1  # such a worker begins its last item once it knows that it is the last
        if any(len(self.assignment.assigned(slot)) > begun for slot in self._slots.values()):
            return False
        if self.assignment.pending and not self.assignment.busy and len(self._collections) >= self._expected:
            self._homeless = self.assignment.pending  # all workers are there and idle, and none of them can run these
        return not self.assignment.pending or bool(self._homeless)

    @property
    def has_pending(self) -> bool:
        """Whether there is still something to be done."""
        return bool(self.assignment.pending or self._again) or self.assignment.busy

    def add_node(self, node: WorkerController) -> None:
        """Take note of a new worker. One that replaces another inherits its slot: xdist gives it the same spec."""
        self._nodes.append(node)

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """Take note of the node ids that a worker has collected; one that came late must have the others' items."""
        self._collections[node] = list(collection)
        if self._ids is not None and self._same(node, self._ids):
            self._add_slot(node)

    def schedule(self) -> None:
        """Begin, once all workers have collected the same items; later, give new workers something to do."""
        if self._ids is None:
            first = next(iter(self._collections.values()))
            if not all([self._same(node, first) for node in self._collections]):  # noqa: C419 - report them all
                return
            self._ids = first
            others = Job(0, OTHERS.id, OTHERS.id, _OTHER_SECONDS)
            self._jobs = [replace(self._known.get(nodeid, others), index=at) for at, nodeid in enumerate(first)]
            self.assignment.give_back(self._jobs)
            order = list(self._locations)
            for node in sorted(self._collections, key=lambda node: order.index(id(node.gateway.spec))):
                self._add_slot(node)  # not in the order of their answers, so that the same run goes the same way
        self._tell()

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Take note that a worker has begun a phase, finished an item, got devices or dropped what it had loaded."""
        if item_index == PHASE:
            self._phases[node] = int(duration)
            return
        slot = self._slots.get(node)
        if slot is not None and item_index == RELEASED:
            self.assignment.released(slot)
        elif slot is not None and item_index == PLACED:
            self.assignment.placed(slot, duration)
        elif slot is not None:
            self._phases.pop(node, None)
            self.assignment.complete(slot, item_index, time.monotonic())
        self._tell()

    def mark_test_pending(self, item: str) -> None:
        """Run an item again whose worker died, on the one that replaces it; asking again changes nothing.

        Plugins may ask for it in ``pytest_handlecrashitem``, as we do.
        """
        assert self._ids is not None
        job = self._jobs[self._ids.index(item)]
        if job not in self._again:
            self._again.append(job)

    def remove_pending_tests_from_node(self, node: WorkerController, indices: Sequence[int]) -> None:
        """Never called: it answers a request to give items back, and we make none."""
        raise NotImplementedError

    def remove_node(self, node: WorkerController) -> str | None:
        """Forget a worker that is gone, let others do what it has not begun, and return the item that it was running.

        Raises:
            KeyError: the worker never said that it was there.
        """
        if node not in self._nodes:
            raise KeyError(node)
        self._nodes.remove(node)
        self._collections.pop(node, None)
        slot = self._slots.pop(node, None)
        jobs = self.assignment.remove_slot(slot) if slot is not None else []
        self.assignment.give_back(jobs[1:])
        self._tell()
        return self._ids[jobs[0].index] if jobs and self._ids is not None else None

    # ------------------------------------------------------------------------------------------------ for people

    def running(self) -> list[Running]:
        """Return what runs where."""
        found = []
        for node, slot in self._slots.items():
            jobs = self.assignment.assigned(slot)
            if jobs and self._ids is not None:
                device, phase = self._location(node).device, self._phases.get(node)
                found.append(Running(self._ids[jobs[0].index], node.gateway.id, device, phase))
        return found

    def named(self, item: RunningJob) -> tuple[str, str]:
        """Return the names of an item's worker and of the item, for people."""
        node = next(node for node, slot in self._slots.items() if slot == item.slot)
        nodeid = self._ids[item.job.index] if self._ids is not None else ""
        return node.gateway.id, item_name(nodeid)

    def look_again(self) -> None:
        """Decide anew what has to do with the time: what is overdue is not waited for as if it ended at once."""
        if self._ids is not None:
            self._tell()

    def remarks(self) -> list[str]:
        """Return what is worth saying at the end: workers without work, and work that could run nowhere."""
        lines = []
        workers, unused = len(self._locations), len(self._locations) - len(self._used)
        surplus = sum(place.slot is None for place in self._locations.values())
        if all(job.load == OTHERS.id for job in self._jobs):
            pass  # there was no certificate to be made
        elif surplus:
            lines.append(f"{surplus} of {workers} workers got no items: device slots are {workers - surplus}")
        elif unused:
            lines.append(f"{unused} of {workers} workers got no items: loading a model once more would not have paid")
        if self._homeless:
            loads = sorted({job.load for job in self._homeless})
            wants = ", ".join(f"{load} ({self.assignment.costs.devices(load)} devices)" for load in loads)
            lines.append(f"{len(self._homeless)} items could run nowhere: there are too few workers for {wants}")
        return lines

    # ------------------------------------------------------------------------------------------------------------

    def _location(self, node: WorkerController) -> WorkerLocation:
        return self._locations[id(node.gateway.spec)]  # specs of several workers are equal, but not the same

    def _add_slot(self, node: WorkerController) -> None:
        location = self._location(node)
        if location.slot is not None:
            self._slots[node] = location.slot
            self.assignment.add_slot(self._slots[node], location.host, 1 if self._one_at_a_time else 2)
            if self._again:
                self.assignment.expect(self._slots[node], self._again.pop(0))

    def _same(self, node: WorkerController, ids: list[str]) -> bool:
        """Tell whether a worker has collected these items; if not, let pytest report the difference."""
        from xdist.report import report_collection_diff

        difference = report_collection_diff(ids, self._collections[node], "the first worker", node.gateway.id)
        if difference:
            report = pytest.CollectReport(node.gateway.id, "failed", difference, [])
            self.config.hook.pytest_collectreport(report=report)
        return not difference

    def _tell(self) -> None:
        """Send the workers what they are to do next."""
        workers = {slot: node for node, slot in self._slots.items()}
        for slot, node in workers.items():
            if node.shutting_down:
                self.assignment.close_slot(slot)
        for order in self.assignment.decide(time.monotonic()):
            if isinstance(order, Start):
                self._used.add(order.slot)
            try:
                workers[order.slot].send_runtest_some(cast("Sequence[int]", self._message(order)))
            except OSError:
                continue  # the worker has died; xdist is about to tell
        if not self._one_at_a_time:
            self._dismiss(workers)

    def _dismiss(self, workers: Mapping[str, WorkerController]) -> None:
        """Let workers that do not begin their last item before they know that it is the last do so, and end."""
        for slot, node in workers.items():
            if len(self.assignment.assigned(slot)) == 1 and not node.shutting_down:
                node.shutdown()
                self.assignment.close_slot(slot)
                del self._collections[node]  # it is no longer one that could do what is left
                self._expected -= 1

    def _message(self, order: Start | Release) -> list[int | list[str]]:
        """Return what goes into a worker's queue; see :mod:`pytest_proofpack.plugin.xdist_worker`."""
        if isinstance(order, Release):
            return [[RELEASE]]
        if not order.borrowed:
            return [order.job.index]
        devices = {
            place.slot: place.device or place.slot for place in self._locations.values() if place.slot is not None
        }
        return [[BORROW, *(devices[slot] for slot in order.borrowed)], order.job.index]


def worker_locations(specs: Iterable[Any], slots: int | None) -> dict[int, WorkerLocation]:
    """Return where workers compute, by the identity of the specs that xdist starts them, and their successors, by.

    Args:
        specs: as ``pytest_xdist_setupnodes`` gets them.
        slots: how many device slots there are on one host; None for one per worker. Workers beyond that, and those
            that were shown no device, get none.
    """
    found: dict[int, WorkerLocation] = {}
    taken: Counter[str] = Counter()
    for spec in specs:
        host = host_of(spec)
        shown = next((spec.env[name] for name in _VISIBLE if name in spec.env), None)
        has_slot = shown != "" and (slots is None or taken[host] < slots)
        taken[host] += has_slot
        device = shown.partition(",")[0] if shown else None
        found[id(spec)] = WorkerLocation(host, device, spec.id if has_slot else None)
    return found
