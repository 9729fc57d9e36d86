"""Shared by all tests of this repository."""

from __future__ import annotations

import os

# No test asks the real hub; those marked `network` install packages. Progress bars would only hide what a failing test
# has to say.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
