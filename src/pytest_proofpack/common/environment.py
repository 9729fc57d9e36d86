"""Environment variables of this process: set, and put back."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""The environment of every process of a run. The preflight's own client is the only way around it."""


def go_offline() -> dict[str, str | None]:
    """Turn the network off for all Hugging Face libraries in this process and those that it starts.

    Libraries read the variables when they are imported, so this comes first; huggingface_hub is told even if it is
    already there.

    Returns:
        What the variables were before; None for those that were not set.
    """
    before = set_environment(OFFLINE)
    loaded = sys.modules.get("huggingface_hub.constants")
    if loaded is not None:
        vars(loaded).update(HF_HUB_OFFLINE=True, HF_HUB_DISABLE_TELEMETRY=True)
    return before


def set_environment(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Set variables of this process and return what they were before; None for those that were not set."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    return before


def restore_environment(before: Mapping[str, str | None]) -> None:
    """Set variables back to what :func:`set_environment` found."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
