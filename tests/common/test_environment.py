"""The network is off for all libraries of a process, and afterwards as it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_proofpack.common.environment import OFFLINE, go_offline


def test_offline_reaches_libraries_that_are_loaded_and_those_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    restore = go_offline()
    from huggingface_hub import is_offline_mode

    assert is_offline_mode()
    show = "from huggingface_hub import constants as c; print(c.HF_HUB_OFFLINE, c.HF_HUB_DISABLE_TELEMETRY)"
    child = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["True", "True"]
    restore()
    assert not OFFLINE.keys() & os.environ.keys()
    assert not is_offline_mode()
