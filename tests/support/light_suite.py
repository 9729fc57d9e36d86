"""A pytest plugin, given with ``-p``: our scheduler and our worker loop over items that load no model.

``light.json`` in the working directory says what there is: ``loads`` (seconds and devices by name), ``items`` (named
LOAD-NUMBER), ``acts`` (what an item does besides passing), ``dies`` (workers that die at their start), ``slots``,
``timeout`` and ``overdue`` (seconds), ``tries_again`` (whether we have what a crash lost run again),
``misfit`` (the controller finds xdist changed), ``interval`` (progress is shown, at most so often), ``beat`` (seconds
between two looks whether it is time to show it while an item runs), ``phase`` (what every item tells it begins with).
What happens is appended to ``events.txt``, one line each: worker, event, details.
"""

from __future__ import annotations

import json
import os
import signal
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_proofpack.common import stopwatch
from pytest_proofpack.plugin import overdue, progress
from pytest_proofpack.plugin.junit import DEVICE, WINDOWS_PER_SECOND
from pytest_proofpack.plugin.overdue import Limits, Overdue
from pytest_proofpack.plugin.worker_input import WorkerInput, WorkerStart, worker_input
from pytest_proofpack.plugin.xdist_crashes import Crashes
from pytest_proofpack.plugin.xdist_processes import WorkerProcesses
from pytest_proofpack.plugin.xdist_scheduler import OTHERS, SchedulerHooks
from pytest_proofpack.plugin.xdist_worker import WorkerLoop, fits
from pytest_proofpack.scheduling import assignment
from pytest_proofpack.scheduling.costs import Costs, Job, Load
from pytest_proofpack.scheduling.workload import DeviceFacts
from tests.support.default_settings import DEFAULTS

if TYPE_CHECKING:
    from pytest_proofpack.engine.inputs import CheckedInputs
    from pytest_proofpack.engine.workbench import Workbench
    from pytest_proofpack.runs.run import Run

EVENTS = Path("events.txt")
HELD: list[str] = []
_HOOKS: pytest.StashKey[Hooks] = pytest.StashKey()


def given() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path("light.json").read_text())
    return document


def note(*words: str) -> None:
    with EVENTS.open("a") as file:
        file.write(" ".join((os.environ.get("PYTEST_XDIST_WORKER", "alone"), *words)) + "\n")


class Bench:
    """What a worker's workbench does for the loop, written down."""

    def release(self) -> None:
        note("release")

    def borrow(self, devices: tuple[str, ...]) -> None:
        note("borrow", *devices)


class Hooks(SchedulerHooks):
    """Our hooks, with work that is read from ``light.json``."""

    @cached_property
    def jobs(self) -> dict[str, Job]:
        return {
            f"test_items.py::test_item[{name}]": Job(0, name.partition("-")[0], "any", 0.05)
            for name in given()["items"]
        }

    def costs(self) -> Costs:
        return Costs([OTHERS, *(Load(name, *facts) for name, facts in given()["loads"].items())])


def pytest_configure(config: pytest.Config) -> None:
    told = worker_input(config)
    if told is not None:
        if told.one_at_a_time:
            config.pluginmanager.register(WorkerLoop(config, cast("Workbench", Bench())))
        return
    if given().get("misfit"):
        import xdist.remote

        setattr(xdist.remote.WorkerInteractor, "handle_command", lambda _worker, _command: None)  # noqa: B010 - typed
    facts = DeviceFacts(slots=given().get("slots"))
    hooks = Hooks(config, cast("Run", None), cast("CheckedInputs", None), facts)  # what they are asked, Hooks answers
    config.pluginmanager.register(hooks)
    processes = WorkerProcesses(config)
    config.pluginmanager.register(processes)
    if given().get("tries_again", True):
        config.pluginmanager.register(Crashes(config, processes, Path.cwd()))
    config.pluginmanager.register(Overdue(config, hooks, processes, Limits(given().get("timeout"), 0.0)))
    assignment.OVERDUE_SECONDS = given().get("overdue", 60.0)
    overdue.LOOK_SECONDS = 0.1
    config.pluginmanager.register(WorkerStart(WorkerInput(DEFAULTS, one_at_a_time=fits())))
    config.stash[_HOOKS] = hooks

    if "interval" in given():
        progress.LOG_SECONDS = given()["interval"]
        progress.HEARTBEAT_SECONDS = progress.LONG_SECONDS = given().get("beat", 3600.0)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    if "interval" in given() and not hasattr(session.config, "workerinput"):
        hooks = session.config.stash[_HOOKS]
        session.config.pluginmanager.register(progress.Progress(session.config, hooks, session, null_draws=24))
    if hasattr(session.config, "workerinput"):
        note("start")
        dies = given().get("dies", [])
        if "all" in dies or os.environ["PYTEST_XDIST_WORKER"] in dies:
            os.kill(os.getpid(), signal.SIGKILL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "light_item" in metafunc.fixturenames:
        metafunc.parametrize("light_item", given()["items"])


@pytest.fixture(scope="session")
def outlives_items() -> Any:
    note("setup")
    yield
    note("teardown")


@pytest.fixture
def act(light_item: str, outlives_items: None, request: pytest.FixtureRequest) -> Any:
    request.node.user_properties.extend([(WINDOWS_PER_SECOND, 12.345), (DEVICE, "cpu")])
    note("begin", light_item)
    if "phase" in given():
        stopwatch.tell(given()["phase"])
    load = light_item.partition("-")[0]
    if load not in HELD:
        HELD[:] = [load]
        time.sleep(given()["loads"][load][0])
    yield given().get("acts", {}).get(light_item, "pass")
    note("end", light_item)


def perform(act: str) -> None:
    """Do what ``light.json`` says: pass, fail, kill the worker, exit it, hang, wait:ITEM until another item is done.

    ``once:ITEM`` kills the worker when that item, this one, is begun for the first time.
    """
    first = act.startswith("once:") and EVENTS.read_text().count(f" begin {act.removeprefix('once:')}\n") == 1
    if act == "exit":
        os._exit(77)
    if act == "hang":
        time.sleep(3600)
    if act == "kill" or first:
        os.kill(os.getpid(), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while act.startswith("wait:") and f" end {act.removeprefix('wait:')}\n" not in EVENTS.read_text():
        assert time.monotonic() < deadline, "an item waits behind this one"
        time.sleep(0.05)
    assert act != "fail"
