"""Shared by all tests of this repository."""

from __future__ import annotations

import os

# Nothing is fetched in tests, and progress bars would only hide what a failing test has to say.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
