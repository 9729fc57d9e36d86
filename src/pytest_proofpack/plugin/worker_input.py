"""What the controller sends every worker, in one record: enough to build the same run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_proofpack.config.settings import Settings
from pytest_proofpack.plan.pins import Revisions
from pytest_proofpack.plugin.xdist_hosts import host_of
from pytest_proofpack.runs.extensions import Extension, extensions_from_json

if TYPE_CHECKING:
    from pytest_proofpack.common.strict_json import JsonObject
    from pytest_proofpack.devices.inventory import Device
    from pytest_proofpack.runs.run import Run

KEY = "proofpack"
"""The one key of ours in xdist's ``workerinput``. Its value is a JSON text: xdist takes long over nested values."""


@dataclass(frozen=True)
class WorkerInput:
    """What a worker is told.

    Attributes:
        settings: the resolved options.
        extensions: those that the controller has loaded; the worker has to have the same.
        revisions: the commits that the run reads.
        tuned: the run's tuned parameters; None for a worker that reads those that the settings name.
        reused: as :class:`pytest_proofpack.runs.run.Run` has it.
        one_at_a_time: whether the worker is to run one item at a time, see
            :mod:`pytest_proofpack.plugin.xdist_worker`.
        controller: process of the controller; None for a worker that it has not started itself.
        devices: what a worker of this host sees, its own device first; None for one that looks for itself.
    """

    settings: Settings
    extensions: tuple[Extension, ...] = ()
    revisions: Revisions = field(default_factory=lambda: Revisions("", "", ()))
    tuned: JsonObject | None = None
    reused: Mapping[str, JsonObject] = field(default_factory=dict)
    one_at_a_time: bool = False
    controller: int | None = None
    devices: tuple[Device, ...] | None = None

    @classmethod
    def of_run(cls, run: Run, *, one_at_a_time: bool) -> WorkerInput:
        """Return what a worker of a run is told, but for its devices."""
        return cls(run.settings, run.extensions, run.revisions, run.suite.tuned, run.reused, one_at_a_time)

    def run(self, extensions: tuple[Extension, ...]) -> Run:
        """Build the run in a worker, which has loaded these extensions.

        Raises:
            ConfigurationError: it cannot be built here: another extension, or a file that is not there.
        """
        from pytest_proofpack.plugin.sharding import sharded
        from pytest_proofpack.runs.extensions import require_same_extensions
        from pytest_proofpack.runs.run import resolve_run
        from pytest_proofpack.sources.pinning import pinned_run

        require_same_extensions(extensions, self.extensions)
        pinned = pinned_run(sharded(resolve_run(self.settings, extensions, self.tuned)), self.revisions)
        return replace(pinned, revisions=self.revisions, reused=self.reused)

    def to_text(self) -> str:
        """Return the record as one JSON text."""
        from pytest_proofpack.devices.inventory import to_text

        return json.dumps(
            {
                "settings": self.settings.to_json(),
                "extensions": [extension.to_json() for extension in self.extensions],
                "revisions": self.revisions.document(),
                "tuned": self.tuned,
                "reused": dict(self.reused),
                "one_at_a_time": self.one_at_a_time,
                "controller": self.controller,
                "devices": None if self.devices is None else to_text(self.devices),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> WorkerInput:
        """Rebuild the record from :meth:`to_text`."""
        from pytest_proofpack.devices.inventory import from_text

        values = json.loads(text)
        return cls(
            settings=Settings.from_json(values["settings"]),
            extensions=extensions_from_json(values["extensions"]),
            revisions=Revisions.from_document(values["revisions"]),
            tuned=values["tuned"],
            reused=values["reused"],
            one_at_a_time=values["one_at_a_time"],
            controller=values["controller"],
            devices=None if values["devices"] is None else from_text(values["devices"]),
        )


class WorkerStart:
    """Registered in the controller: sends every new worker its input."""

    def __init__(
        self, given: WorkerInput, devices: Callable[[Any], tuple[Device, ...] | None] = lambda _: None
    ) -> None:
        """Send nothing yet.

        Args:
            given: what all workers are told.
            devices: returns what a worker sees, by the spec that xdist starts it by.
        """
        self._given = given
        self._devices = devices

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a new worker what it has to know."""
        spec = node.gateway.spec
        controller = None if host_of(spec) or spec.python else os.getpid()  # a named Python may be a wrapper
        node.workerinput[KEY] = replace(self._given, controller=controller, devices=self._devices(spec)).to_text()


def worker_input(config: pytest.Config) -> WorkerInput | None:
    """Return what this process was sent; None if it is no worker."""
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    return None if given is None else WorkerInput.from_text(given[KEY])
