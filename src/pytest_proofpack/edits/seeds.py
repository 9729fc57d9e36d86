"""Seeds of what an edit draws at random."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, *parts: str) -> int:
    """Return a 63-bit seed that depends on all of the arguments, the same on every platform."""
    digest = hashlib.sha256("\0".join((str(seed), *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
