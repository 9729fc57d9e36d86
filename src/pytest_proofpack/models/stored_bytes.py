"""Bytes of a safetensors file, read into memory of our own, and the tensors that they are."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from pytest_proofpack.errors import EvaluationError, FormatError
from pytest_proofpack.models.safetensors_files import StoredTensor

PIECE = 16 << 20
"""Bytes that are read at a time."""
_ALIGNED = 64
"""A tensor begins in memory where it would if its file were mapped, counted in bytes of a cache line: the bits of a
matrix product may depend on it."""
_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
"""torch's names of safetensors' types."""
_TWO_VALUES_A_BYTE = "F4"


def read_bytes(descriptor: int, start: int, end: int) -> Tensor:
    """Return bytes of an open file from ``start`` up to ``end``, shaped (end - start,), aligned as if it were mapped.

    Raises:
        FormatError: the file ends before.
        OSError: it cannot be read.
    """
    buffer = host_memory(start, end)
    fill(buffer, descriptor, start)
    return buffer


def host_memory(start: int, end: int) -> Tensor:
    """Return host memory, shaped (end - start,), aligned as these bytes of a file are if it is mapped."""
    phase = start % _ALIGNED
    return torch.empty(end - start + phase, dtype=torch.uint8, device="cpu")[phase:]


def fill(buffer: Tensor, descriptor: int, start: int) -> None:
    """Fill a tensor in host memory, shaped (bytes,), with as many bytes of an open file, from ``start`` on.

    Raises:
        FormatError: the file ends before.
        OSError: it cannot be read.
    """
    view, done = bytes_of(buffer), 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done : done + PIECE]], start + done)
        if count == 0:
            raise FormatError(f"ends at byte {start + done}, before {start + len(view)}")
        done += count


def bytes_of(tensor: Tensor) -> memoryview:
    """Return a view on the bytes of a tensor in host memory without gaps."""
    return memoryview(tensor.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]  # an array is a buffer


def torch_type(stored: StoredTensor) -> torch.dtype:
    """Return torch's type of a stored tensor.

    Raises:
        EvaluationError: there is none.
    """
    dtype = getattr(torch, _TYPES.get(stored.dtype, ""), None)
    if not isinstance(dtype, torch.dtype):
        raise EvaluationError(f"the installed torch knows no type {stored.dtype}. Save the weights as another one.")
    return dtype


def as_tensor(buffer: Tensor, stored: StoredTensor) -> Tensor:
    """Return the bytes of a stored tensor, of shape (bytes,), as what they are; the memory is the same.

    Raises:
        EvaluationError: the installed torch does not know its type.
    """
    dtype, shape = torch_type(stored), list(stored.shape)
    if stored.dtype == _TWO_VALUES_A_BYTE:
        shape[-1] //= 2
    if buffer.storage_offset() % dtype.itemsize:
        buffer = buffer.clone()  # a file may place a tensor anywhere
    return buffer.view(dtype).reshape(shape)
