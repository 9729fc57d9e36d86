"""A pytest plugin, given with ``-p``: a driver that lists as many GPUs as FAKE_GPUS says, in controller and workers.

Nothing can be computed on them. Every worker writes into a file what it is shown when it starts, before anything else
is imported; the one that DIES names then dies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_AT_START = {
    "shown": os.environ.get("CUDA_VISIBLE_DEVICES"),
    "threads": os.environ.get("OMP_NUM_THREADS"),
    "torch": "torch" in sys.modules,
}

import pytest  # noqa: E402 - what was there before

from pytest_proofpack.devices import inventory  # noqa: E402


class _FakeDriver:
    class NVMLError(Exception):
        """Never raised."""

    NVML_DEVICE_MIG_ENABLE = 1
    nvmlMemory_v2 = 2  # noqa: N815 - the name that pynvml gives it

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlDeviceGetCount": lambda: int(os.environ["FAKE_GPUS"]),
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetUUID": lambda index: f"GPU-{index}",
            "nvmlDeviceGetName": lambda _: "Fake",
            "nvmlDeviceGetMemoryInfo": lambda _, version: _Memory(),  # noqa: ARG005 - called by name
            "nvmlDeviceGetMigMode": lambda _: (0, 0),
        }
        return answers.get(name, lambda *_: None)


class _Memory:
    total, reserved = 80 * 2**30, 0


class _FakeProbe(inventory.Probe):
    def torch_build(self) -> str:
        return "cuda"

    def nvml(self) -> Any:
        return _FakeDriver()


inventory.Probe = _FakeProbe  # type: ignore[misc]


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        worker = session.config.workerinput["workerid"]
        Path(f"{worker}.report").write_text(json.dumps(_AT_START))
        if os.environ.get("DIES") == worker:
            os.kill(os.getpid(), signal.SIGKILL)
