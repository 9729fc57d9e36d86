"""What the controller sends a worker is enough to build the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Revisions, Role
from pytest_proofpack.plugin.worker_input import WorkerInput
from pytest_proofpack.runs.extensions import Extension
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS

MINE = Extension("mine.py", None, "e" * 64)
MODEL = "proofpack/tiny"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    settings = replace(DEFAULTS, suite="tiny", out=str(tmp_path / "run"), trusted_key=("A", "B"), runs={"clean": 1})
    revisions = Revisions("tiny", "2026-01-31T12:00:00Z", (MODEL,), {(Role.MODEL, MODEL): Pin(None, license="mit")})
    return replace(resolve_run(settings, (MINE,)), revisions=revisions, reused={"an id": {"meta": {"a": [1, 2.5]}}})


def test_a_worker_builds_the_run_of_the_controller(run: Run) -> None:
    told = WorkerInput.of_run(run, one_at_a_time=True)
    gpu = Device(0, "GPU-0", "Fake", 2**30, "cuda")
    arrived = WorkerInput.from_text(replace(told, devices=(gpu,)).to_text())

    assert arrived.run((MINE,)) == run
    assert (arrived.one_at_a_time, arrived.devices) == (True, (gpu,))


def test_a_worker_with_another_extension_refuses(run: Run) -> None:
    with pytest.raises(ConfigurationError, match="Give every host the same files"):
        WorkerInput.of_run(run, one_at_a_time=True).run((replace(MINE, sha256="f" * 64),))


def test_a_run_does_not_change(run: Run) -> None:
    with pytest.raises(AttributeError):
        run.reused = {}  # type: ignore[misc]
