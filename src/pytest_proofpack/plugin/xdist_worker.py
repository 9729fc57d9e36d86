"""In a worker: run an item, report it, and only then fetch the next.

pytest-xdist's own loop fetches the next item before it runs the current one, so that a worker always holds an item back
that nobody else can take. There is no public way to change that: :func:`fits` looks whether xdist's worker is built
as we know it. Both sides of a session agree, because the controller sends its own worker code to every worker.

What the controller sends through xdist's queue of items is an item's index, or a list that is an order of ours:
``["release"]`` or ``["borrow", slot, ...]``.
"""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_proofpack.plugin.phases import tell_phases

if TYPE_CHECKING:
    from pytest_proofpack.engine.workbench import Workbench

RELEASE = "release"
BORROW = "borrow"
RELEASED = -1
"""Index of the item that a worker reports as finished when it has dropped what it had loaded."""
PLACED = -2
"""The same when it has the devices for its item, with the seconds that it waited for them."""
PHASE = -3
"""The same when a phase of its item begins, with the phase's number in place of seconds."""
_EXPECTED = {
    "pytest_runtestloop": {"torun", "get", "nextitem_index", "run_one_test", "shouldfail", "shouldstop"},
    "run_one_test": {"torun", "get", "nextitem_index", "item_index", "pytest_runtest_protocol", "sendevent"},
    "handle_command": {"torun", "put"},
    "pytest_runtest_logreport": {"item_index"},
    "sendevent": {"send"},
}
"""Methods of xdist's worker and the names that each one uses. xdist 3.8 fits."""


def fits(worker: type | None = None) -> bool:
    """Tell whether xdist's worker is built so that its loop can be replaced.

    Args:
        worker: its class; that of the installed xdist unless told.
    """
    if worker is None:
        import xdist.remote

        worker = getattr(xdist.remote, "WorkerInteractor", None)
    for name, used in _EXPECTED.items():
        method = getattr(worker, name, None)
        if not inspect.isfunction(method) or not used <= set(method.__code__.co_names):
            return False
    return list(inspect.signature(worker.run_one_test).parameters) == ["self"]  # type: ignore[union-attr]


class WorkerLoop:
    """Replaces the loop of the worker that it is registered in, as it is where the controller says so."""

    def __init__(self, config: pytest.Config, bench: Workbench) -> None:
        self._config = config
        self._bench = bench

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Replace what runs one item, just before the loop begins."""
        plugins = self._config.pluginmanager.get_plugins()
        (interactor,) = (plugin for plugin in plugins if type(plugin).__name__ == "WorkerInteractor")
        interactor.run_one_test = lambda: self._run_one(interactor, session)
        self._bench.on_placed = lambda waited: self._report(interactor, PLACED, waited)
        tell_phases(lambda phase: self._report(interactor, PHASE, phase))

    def _run_one(self, interactor: Any, session: pytest.Session) -> None:
        """Do what came last through the queue, report it, then wait for the next, unless the session is to stop."""
        entry = interactor.nextitem_index
        start = time.perf_counter()
        if isinstance(entry, int):
            index = interactor.item_index = entry
            item = session.items[index]
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=_sibling(item, session.items))
            self._report(interactor, index, time.perf_counter() - start)
        elif entry[0] == RELEASE:
            self._bench.release()
            self._report(interactor, RELEASED, time.perf_counter() - start)
        elif entry[0] == BORROW:
            self._bench.borrow(tuple(entry[1:]))
        if not (session.shouldfail or session.shouldstop):
            interactor.nextitem_index = interactor.torun.get()

    @staticmethod
    def _report(interactor: Any, index: int, seconds: float) -> None:
        interactor.sendevent("runtest_protocol_complete", item_index=index, duration=seconds)


def _sibling(item: pytest.Item, items: list[pytest.Item]) -> pytest.Item | None:
    """Return another item, of the same module if there is one, so that fixtures of wider scope than one item survive.

    Which item comes next is not known yet; what is left set up at the end, pytest tears down with the session.
    """
    others = [other for other in items if other is not item]
    return next((other for other in others if other.parent is item.parent), others[0] if others else None)
