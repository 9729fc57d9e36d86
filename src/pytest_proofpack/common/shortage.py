"""What ran out, told from an error, so that nothing else is blamed for it and the user is told what to get more of."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import suppress

from pytest_proofpack.common.words import memory_size

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The numbers of an OSError that say so."""
_DISK = "the disk is full. Make room on it, then go on with --proofpack-resume."
_MEMORY_MESSAGES = ("can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory")
"""What torch and the system say where they raise nothing narrower than RuntimeError or OSError."""
_MEMORY_ADVICE = "Use a larger device, or fewer workers (-n), or end what else is using it."
_SIZE = r"([0-9.]+ (?:bytes|[KMGT]iB))"
_ASKED = re.compile(rf"[Tt]r(?:ied|ying) to allocate {_SIZE}")
_LEFT_ON_DEVICE = re.compile(rf"total capacity of {_SIZE} of which {_SIZE} is free")


def what_ran_out(error: BaseException) -> str | None:
    """Return what ran out and what to do about it, if an error or one that it was raised from says so; else None.

    Of memory, it says how much was asked for and how much there is, as far as anybody can tell. Memory runs out as an
    OutOfMemoryError of torch on an accelerator, as a RuntimeError of its allocator on the host, and as Python's own
    MemoryError.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL_DISK:
            return _DISK
        text = " ".join(str(seen).split())
        # torch's own error is known by its name: the verifier's half does without torch.
        on_device = type(seen).__name__ == "OutOfMemoryError"
        said = isinstance(seen, RuntimeError | OSError) and any(words in text.lower() for words in _MEMORY_MESSAGES)
        if on_device or said or isinstance(seen, MemoryError):
            return _memory(text, on_device=on_device or "CUDA" in text)
        seen = seen.__cause__
    return None


def _memory(text: str, *, on_device: bool) -> str:
    numbers = ", and ".join(_numbers(text, on_device=on_device))
    where = "device" if on_device else "host"
    return f"memory of the {where} ran out{': ' if numbers else ''}{numbers}. {_MEMORY_ADVICE}"


def _numbers(text: str, *, on_device: bool) -> Iterator[str]:
    """Yield what was asked for and what there is: of a device, as torch said it; of the host, as it is now."""
    if asked := _ASKED.search(text):
        yield f"{_size(asked[1])} more were asked for"
    if left := _LEFT_ON_DEVICE.search(text):
        yield f"{left[2]} of {left[1]} were free"
    if on_device:
        return
    with suppress(ImportError):  # it comes with what certifying needs
        import psutil

        host = psutil.virtual_memory()
        free, total = memory_size(host.available), memory_size(host.total)
        yield f"{free} of {total} are free now (a limit on the process may leave it less)"


def _size(stated: str) -> str:
    amount, unit = stated.split()
    return memory_size(float(amount)) if unit == "bytes" else f"{float(amount):g} {unit}"
