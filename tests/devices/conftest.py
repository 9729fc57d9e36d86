"""Processes that lease devices, to wait for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.lease_holders import Holder


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    started: list[Holder] = []

    def start(name: str, uuids: str, count: int = 1, user: int = os.getuid()) -> Holder:
        started.append(Holder(tmp_path / "leases", name, [f"GPU-{letter}" for letter in uuids], count, user))
        return started[-1]

    yield start
    for own in started:
        own.process.kill()
        own.process.communicate()
