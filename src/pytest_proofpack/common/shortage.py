"""What ran out, told from an error, so that nothing else is blamed for it and the user is told what to get more of."""

from __future__ import annotations

import errno

_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
_MEMORY_MESSAGES = ("can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory")
"""What torch and the system say where they raise nothing narrower than RuntimeError or OSError."""

MEMORY = "Memory ran out: use shorter windows, fewer workers on this device, or a larger one."
DISK = "The disk is full: make room on it, then go on with --proofpack-resume."


def what_ran_out(error: BaseException) -> str | None:
    """Return what ran out and what to do about it, if an error or one that it was raised from says so; else None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL_DISK:
            return DISK
        # torch's own error is known by its name: the verifier's half does without torch.
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return MEMORY
        if isinstance(seen, RuntimeError | OSError) and any(text in str(seen).lower() for text in _MEMORY_MESSAGES):
            return MEMORY
        seen = seen.__cause__
    return None
