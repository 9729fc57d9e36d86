"""What ran out is told from the error, and nothing else is blamed."""

from __future__ import annotations

import errno

import pytest
import torch

from pytest_proofpack.common.shortage import what_ran_out

DISK = "the disk is full. Make room on it, then go on with --proofpack-resume."
MEMORY = "memory of the host ran out: "
DEVICE = "memory of the device ran out: 2 GiB more were asked for. Use a larger device, "


def raised_from(cause: Exception) -> Exception:
    error = ValueError("it failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/some/file"), DISK),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DISK),
        (MemoryError(), MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), DEVICE),
        (RuntimeError("CUDA error: out of memory"), "memory of the device ran out. Use a larger device, "),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
        (raised_from(MemoryError()), MEMORY),
        (RuntimeError("The size of tensor a (128) must match the size of tensor b (64)"), None),
        (OSError(errno.ENOENT, "No such file or directory"), None),
        (ValueError("tried to allocate 5 bytes"), None),
        (ValueError("out of memory of what was said"), None),
    ],
    ids=repr,
)
def test_what_ran_out(error: Exception, expected: str | None) -> None:
    told = what_ran_out(error)
    assert told is None if expected is None else told is not None and told.startswith(expected)


def test_memory_of_the_host_as_torch_says_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.float64)
    assert (what_ran_out(caught.value) or "").startswith(f"{MEMORY}8388608.0 GiB more were asked for, and ")


def test_memory_of_a_device_as_torch_says_it() -> None:
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is "
        "free."
    )
    assert what_ran_out(error) == (
        "memory of the device ran out: 2.5 GiB more were asked for, and 1.20 GiB of 79.10 GiB were free. Use a larger "
        "device, or fewer workers (-n), or end what else is using it."
    )
