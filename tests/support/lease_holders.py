"""Devices that are not there, and processes that lease them when they are told to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting

PATIENCE = 120.0
DEVICES = tuple(Device(index, f"GPU-{index}", "fake", 2**30, "cuda", f"GPU-{index}") for index in range(4))
HOLDER = """
import json, os, sys
from pathlib import Path
from pytest_proofpack.devices.inventory import Device
from pytest_proofpack.devices.leases import Waiting, acquire
directory, name, uuids, count = sys.argv[1], sys.argv[2], sys.argv[3].split(","), int(sys.argv[4])
os.setuid(int(sys.argv[5]))  # libraries are loaded: another user may not reach them
tell = lambda **facts: print(json.dumps(facts), flush=True)
devices = [Device(0, uuid, "fake", 1, "cuda", uuid) for uuid in uuids]
waiting = Waiting(Path(directory), name, timeout=120, say=lambda line: tell(waits=line), pause=0.02)
for line in sys.stdin:
    with acquire(devices, count, waiting) as lease:
        tell(has=[device.uuid for device in lease.devices])
        if line.strip() != "pass":
            sys.stdin.readline()
    tell(has=[])
"""


class Holder:
    """A process that leases devices when it is told to, and says what happens to it."""

    def __init__(self, directory: Path, name: str, uuids: Sequence[str], count: int, user: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(directory), name, ",".join(uuids), str(count), str(user)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        heard: dict[str, Any] = json.loads(self.process.stdout.readline())
        return heard

    def take(self) -> list[str]:
        self.say("take")
        return self.has()

    def has(self) -> list[str]:
        """Wait until it says what it has."""
        while "has" not in (heard := self.hear()):
            pass
        return list(heard["has"])


def waiting(tmp_path: Path, timeout: float = PATIENCE, **options: Any) -> Waiting:
    return Waiting(tmp_path / "leases", "me", timeout, pause=0.02, **options)
