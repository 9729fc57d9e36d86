"""A plugin of pytest: every worker notes when its first forward pass begins, in a file of its own.

FIRST_PASS=FOLDER python -m pytest -p benchmarks.first_pass ...
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import nn

FOLDER = "FIRST_PASS"
"""Variable of the environment that names the folder of these files."""


def times(folder: Path) -> list[float]:
    """Return when first passes began, in seconds of :func:`time.time`, the earliest one first."""
    return sorted(float(path.read_text()) for path in folder.glob("*.txt"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """In a worker, wait for the first call of any module."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return  # the controller does without torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    def note(_module: nn.Module, _inputs: object) -> None:
        (Path(os.environ[FOLDER]) / f"{worker['workerid']}.txt").write_text(f"{time.time()}")
        handle.remove()

    handle = register_module_forward_pre_hook(note)
