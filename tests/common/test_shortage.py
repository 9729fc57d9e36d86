"""What ran out is told from the error, and nothing else is blamed."""

from __future__ import annotations

import errno

import pytest
import torch

from pytest_proofpack.common.shortage import DISK, MEMORY, what_ran_out


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
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
        (raised_from(MemoryError()), MEMORY),
        (RuntimeError("The size of tensor a (128) must match the size of tensor b (64)"), None),
        (OSError(errno.ENOENT, "No such file or directory"), None),
        (ValueError("out of memory of what was said"), None),
    ],
    ids=repr,
)
def test_what_ran_out(error: Exception, expected: str | None) -> None:
    assert what_ran_out(error) == expected


def test_memory_of_the_host_as_torch_says_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.float64)
    assert what_ran_out(caught.value) == MEMORY
