"""What a process of a Ray cluster does for a session: makes certificates, and returns each as its JSON text."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from pytest_proofpack import __version__
from pytest_proofpack.common.environment import go_offline
from pytest_proofpack.common.shortage import what_ran_out
from pytest_proofpack.common.strict_json import compact_json
from pytest_proofpack.devices.inventory import is_cpu, visible_devices
from pytest_proofpack.devices.leases import Waiting, describe_owner
from pytest_proofpack.devices.lock_folder import lease_directory
from pytest_proofpack.devices.placement import ProcessDevices, show_devices
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.errors import ConfigurationError, ProofPackError
from pytest_proofpack.plugin.certify_extra import require_certify
from pytest_proofpack.plugin.making import Making
from pytest_proofpack.plugin.worker_input import WorkerInput
from pytest_proofpack.runs.run import Run

_FETCHING = "pytest-proofpack-{}.fetching"
"""Held in a node's temporary folder by the process that fetches what the node lacks; the others find it there."""


class Answer(NamedTuple):
    """What came of one item: the certificate as one JSON text, or why there is none."""

    text: str | None
    failure: str | None = None


class Found(NamedTuple):
    """What a process finds where Ray has put it: its node, and why nothing can be made there, if so."""

    node: str
    problem: str | None = None


class Maker:
    """Makes certificates of a run. Ray sets which devices it sees, and starts it where there is room."""

    def __init__(self, told: str) -> None:
        """Do nothing yet.

        Args:
            told: a :class:`WorkerInput` as text.
        """
        self._told = told
        self._bench: Workbench | None = None

    def prepare(self, version: str) -> Found:
        """Get ready: what the run needs is here, or is fetched once per node, if the session may reach the network.

        Args:
            version: of this package, in the session.
        """
        import ray

        node: str = ray.get_runtime_context().get_node_id()
        if version != __version__:
            return Found(node, f"has version {__version__} of pytest-proofpack, the session {version}")
        try:
            self._ready()
        except ProofPackError as error:
            return Found(node, str(error))
        return Found(node)

    def make(self, index: int) -> Answer:
        """Make the certificate of an item of the run, by its position among them."""
        try:
            bench = self._ready()
            request = bench.run.items[index]
            making = Making(bench, request)
            with making.edited(making.baseline()) as subject:
                return Answer(compact_json(making.measured(subject)))
        except ProofPackError as error:
            return Answer(None, str(error))
        except (OSError, MemoryError, RuntimeError) as error:
            shortage = what_ran_out(error)
            if shortage is None:
                raise
            return Answer(None, f"{shortage} ({type(error).__name__}: {error})")

    def release(self) -> None:
        """Drop what is loaded."""
        if self._bench is not None:
            self._bench.release()

    def _ready(self) -> Workbench:
        if self._bench is None:
            require_certify()
            go_offline()
            told = WorkerInput.from_text(self._told)
            run, settings = told.run(()), told.settings
            _find(run)
            memory = None if settings.gpu_memory is None else settings.gpu_memory * 2**30
            devices = visible_devices(settings.device, os.environ, memory=memory)
            if not is_cpu(devices):
                show_devices(devices)
            waiting = Waiting(lease_directory(os.environ), describe_owner(sys.argv, "ray"), settings.device_timeout)
            self._bench = Workbench(run, ProcessDevices(devices, waiting))
        return self._bench


def _find(run: Run) -> None:
    """Make sure that this node has the commits that a run reads; fetch what is missing, where it may.

    Raises:
        ConfigurationError: something is missing; names it.
    """
    from pytest_proofpack.sources.preflight import located_model, located_text, resolve_sources
    from pytest_proofpack.sources.source import sources_of

    if run.settings.net and sources_of(run):
        with FileLock(Path(tempfile.gettempdir()) / _FETCHING.format(os.getuid())):
            resolve_sources(run, lambda _line: None, "--proofpack-net=1")
    for model in run.models:
        found = located_model(model, verify=False)
        if found.path is None or not found.path.is_dir():
            raise ConfigurationError(f"{model.id}: there is no directory {found.path} on this node.")
    located_text(run.suite.text, verify=False)
