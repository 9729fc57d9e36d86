"""Environment variables of this process: set, and put back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""The environment of every process of a run. The preflight's own client is the only way around it."""
_TRUE = ("1", "ON", "YES", "TRUE")
"""What huggingface_hub takes for yes."""
_HUB_CONSTANTS = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
"""What huggingface_hub makes of two of them when it is imported."""


def offline_by_user(environment: Mapping[str, str]) -> str | None:
    """Return the variable by which the user keeps Hugging Face's libraries off the network; None if there is none."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if environment.get(name, "").upper() in _TRUE), None)


def go_offline() -> Callable[[], None]:
    """Turn the network off for all Hugging Face libraries in this process and those that it starts.

    Libraries read the variables when they are imported, so this comes first; huggingface_hub is told even if it is
    already there.

    Returns:
        what puts the variables, and what a loaded huggingface_hub made of them, back to what they were before.
    """
    before, constants = set_environment(OFFLINE), _hub_constants()
    made_of_them = {name: constants[name] for name in _HUB_CONSTANTS if name in constants}
    constants.update(dict.fromkeys(made_of_them, True))

    def restore() -> None:
        restore_environment(before)
        _hub_constants().update(made_of_them)

    return restore


def _hub_constants() -> dict[str, Any]:
    """Return the constants of huggingface_hub, to be changed in place; nothing if it is not loaded."""
    loaded = sys.modules.get("huggingface_hub.constants")
    return {} if loaded is None else vars(loaded)


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
