"""Markers by which items of a suite are selected (``-m proofpack_clean``), known to every pytest session."""

from __future__ import annotations

import pytest

REPEAT = "proofpack_repeat"
_CATEGORIES = {
    "calibration": "the unedited model against itself",
    "clean": "an edit that must pass every gate",
    "stress": "an edit that must be caught, or is informational",
    "error_injection": "an injected error that must be detected",
    "byoe": "a checkpoint edited elsewhere that must pass every gate",
}


def category_marker(category: str) -> str:
    """Return the name of the marker of a scenario's category."""
    return f"proofpack_{category}"


def register_markers(config: pytest.Config) -> None:
    """Register one marker per category, and one for repeats."""
    for category, meaning in _CATEGORIES.items():
        config.addinivalue_line("markers", f"{category_marker(category)}: {meaning}")
    config.addinivalue_line("markers", f"{REPEAT}: a certificate made again, to see how reproducible it is")
