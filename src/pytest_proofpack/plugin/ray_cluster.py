"""The only code that knows Ray: processes of a cluster that make certificates, and what is heard of them.

Ray places them, starts them, carries what they are told and what they return, and says when one is gone. A process is
an actor with one CPU, or with as many GPUs, all of one node, as its model takes.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from pytest_proofpack import __version__
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plugin.ray_actor import Answer, Maker

LOCAL = "local"
"""The address that stands for a Ray of this session's own, on this host alone."""
_LEFT_ALONE = (signal.SIGINT, signal.SIGTERM)
"""Signals that are the session's business; Ray takes one of them when it is connected to."""


class Event(NamedTuple):
    """What is heard of a process.

    Attributes:
        kind: it is ``ready``, or cannot be used (``unfit``); it has ``made`` an item or dropped what it had loaded
            (``released``); or it is ``gone``.
        slot: the process.
        node: where it is, if it is ready.
        number: the item that it has made, by its position in the run.
        answer: what came of that.
        why: what is wrong, where something is.
    """

    kind: Literal["ready", "unfit", "made", "released", "gone"]
    slot: str
    node: str = ""
    number: int = -1
    answer: Answer = Answer(None)
    why: str = ""


@dataclass
class _Process:
    """An actor, and the node that it is on as far as that is known."""

    actor: Any
    gpus: int
    node: str = ""


class RayCluster:
    """The processes of a session in a Ray cluster, by the names of their slots."""

    def __init__(self, told: str, *, uses_gpus: bool) -> None:
        """Start nothing yet.

        Args:
            told: what every process is told, see :class:`Maker`.
            uses_gpus: whether a process has a GPU of its own, or else a CPU.
        """
        self._told = told
        self._uses_gpus = uses_gpus
        self._processes: dict[str, _Process] = {}
        self._awaited: dict[Any, tuple[str, str, int]] = {}

    @property
    def slots(self) -> int:
        """How many processes the cluster has room for now."""
        import ray

        return int(ray.cluster_resources().get("GPU" if self._uses_gpus else "CPU", 0))

    @property
    def home(self) -> str:
        """The node that the session runs on."""
        import ray

        node: str = ray.get_runtime_context().get_node_id()
        return node

    def start(self, slot: str) -> None:
        """Have Ray start a process, instead of the one before it of that name. That it is ready is an event."""
        self._place(slot, 1, "")
        self._await(self._processes[slot].actor.prepare.remote(__version__), "prepare", slot)

    def make(self, slot: str, index: int, lenders: tuple[str, ...] = ()) -> None:
        """Have a process make an item, with the devices of these others, which are idle, besides its own."""
        node, gpus = self._processes[slot].node, 1 + len(lenders)
        for lender in lenders:
            self.end(lender, forget=False)
        if self._processes[slot].gpus != gpus:
            self._place(slot, gpus, node)
        self._await(self._processes[slot].actor.make.remote(index), "make", slot, index)

    def release(self, slot: str) -> None:
        """Have a process drop what it has loaded."""
        if self._processes[slot].gpus == 0:  # it has lent its device, and so has nothing
            self._place(slot, 1, self._processes[slot].node)
        self._await(self._processes[slot].actor.release.remote(), "release", slot)

    def end(self, slot: str, *, forget: bool = True) -> None:
        """End a process; one that is not forgotten begins anew when there is something for it to do."""
        import ray

        process = self._processes[slot]
        if process.actor is not None:
            ray.kill(process.actor)
        self._awaited = {ref: what for ref, what in self._awaited.items() if what[1] != slot}
        if forget:
            del self._processes[slot]
        else:
            self._processes[slot] = _Process(None, 0, process.node)

    def events(self, seconds: float) -> Iterator[Event]:
        """Wait for something to happen, at most so long, and yield what has."""
        import ray

        if not self._awaited:
            return
        ready, _ = ray.wait(list(self._awaited), num_returns=1, timeout=seconds)
        if ready:  # whatever else has happened by now
            ready, _ = ray.wait(list(self._awaited), num_returns=len(self._awaited), timeout=0)
        for ref in ready:
            if ref in self._awaited:  # not of a process that has been ended since
                yield self._event(ref, *self._awaited.pop(ref))

    def end_all(self) -> None:
        """End every process."""
        for slot in list(self._processes):
            self.end(slot)

    def _place(self, slot: str, gpus: int, node: str) -> None:
        """Begin a process with so many GPUs, if they are used, on this node, if one is named."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if slot in self._processes:
            self.end(slot)
        wanted: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus} if self._uses_gpus else {"num_cpus": 1}
        if node:
            wanted["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = ray.remote(Maker).options(max_restarts=0, max_task_retries=0, **wanted).remote(self._told)
        self._processes[slot] = _Process(actor, gpus, node)

    def _await(self, ref: Any, what: str, slot: str, index: int = -1) -> None:
        self._awaited[ref] = (what, slot, index)

    def _event(self, ref: Any, what: str, slot: str, index: int) -> Event:
        """Return what has come of something that a process was told."""
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        try:
            found = ray.get(ref)
        except RayTaskError as error:  # a bug of ours, or whatever nobody foresaw: the process lives
            why = str(error.cause)
            return (
                Event("made", slot, number=index, answer=Answer(None, why))
                if what == "make"
                else Event("unfit", slot, why=why)
            )
        except (RayActorError, RayError) as error:
            return Event("gone", slot, number=index, why=str(error).splitlines()[0])
        if what == "make":
            return Event("made", slot, number=index, answer=found)
        if what == "release":
            return Event("released", slot)
        if found.problem is not None:
            return Event("unfit", slot, node=found.node, why=found.problem)
        self._processes[slot].node = found.node
        return Event("ready", slot, node=found.node)


def require_ray() -> None:
    """Make sure that Ray is installed; nothing of it is imported.

    Raises:
        ConfigurationError: it is not.
    """
    if find_spec("ray") is None:
        raise ConfigurationError("--proofpack-ray needs Ray: pip install 'pytest-proofpack[certify,ray]'")


@contextlib.contextmanager
def connected(address: str, told: str, *, uses_gpus: bool) -> Iterator[RayCluster]:
    """Connect to a Ray cluster, and leave it again with every process of this session ended.

    Args:
        address: ``auto``, the address of its head, or ``local``.
        told: see :class:`RayCluster`.
        uses_gpus: likewise.

    Raises:
        ConfigurationError: there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    handlers = {number: signal.getsignal(number) for number in _LEFT_ALONE}
    own = {"include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        ray.init(**own, configure_logging=False, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"--proofpack-ray={address}: {error}") from error
    for number, handler in handlers.items():
        signal.signal(number, handler)
    cluster = RayCluster(told, uses_gpus=uses_gpus)
    try:
        yield cluster
    finally:
        cluster.end_all()
        ray.shutdown()
