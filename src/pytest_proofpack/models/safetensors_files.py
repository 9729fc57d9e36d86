"""Weights in safetensors: which files of a directory hold them, and what their headers say."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_proofpack.common.strict_json import parse_json, read_json
from pytest_proofpack.errors import ConfigurationError, EvaluationError, FormatError

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""As safetensors itself bounds it."""

_LENGTH_BYTES = 8
_BITS = {"BOOL": 8}
"""Of one value, where safetensors' name of its type (``BF16``, ``F8_E4M3``) does not say it."""


class TensorHeader(NamedTuple):
    """What a safetensors header says of a tensor: its shape, and its type in safetensors' words (``BF16``)."""

    shape: tuple[int, ...]
    dtype: str


def weight_files(files: CheckpointFiles) -> tuple[Path, ...]:
    """Return the safetensors files that loading would read: all there, in the directory.

    Raises:
        ConfigurationError: there are none, or an index that names others than there are.
    """
    if (files.path / WEIGHTS).is_file():
        return (files.path / WEIGHTS,)
    if (files.path / INDEX).is_file():
        return _indexed_weights(files)
    others = [name for name in files.names if name.endswith(".safetensors")]
    if files.dangling:
        advice = f"has links that lead nowhere ({', '.join(files.dangling[:3])}); complete the download"
    elif others:
        advice = f"has {', '.join(others[:3])}; rename a single file to {WEIGHTS}, or write the index of several"
    else:
        advice = "has no weights at all; save the model into it: model.save_pretrained(directory)"
    raise ConfigurationError(f"{files.path}: neither {WEIGHTS} nor {INDEX} is there. The directory {advice}.")


def indexed_shards(index: Path) -> tuple[str, ...]:
    """Return the safetensors files that an index names, sorted, whether they are there or not.

    Raises:
        ConfigurationError: it cannot be read, or names none, or one that leads out of the directory.
    """
    return tuple(sorted(set(read_weight_map(index).values())))


def read_weight_map(index: Path) -> Mapping[str, str]:
    """Return the safetensors file of each tensor, as an index says, whether that is true or not.

    Raises:
        ConfigurationError: it cannot be read, or names none, or one that leads out of the directory.
    """
    try:
        weight_map = read_json(index, f"{index}").get("weight_map")
    except FormatError as error:
        raise ConfigurationError(f"{error}. Save or download the model again.") from error
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise ConfigurationError(f"{index}: has no weight_map from tensors to files. Save or download the model again.")
    for shard in sorted(set(weight_map.values())):
        if not is_inside(shard) or not shard.endswith(".safetensors"):
            raise ConfigurationError(
                f"{index}: refers to {shard!r}, which is not a safetensors file inside the directory. Don't use this "
                "model unless you know why; save or download it again."
            )
    return weight_map


class StoredTensor(NamedTuple):
    """A tensor in a file: its shape, its type in safetensors' words, and the bytes from ``start`` up to ``end``."""

    shape: tuple[int, ...]
    dtype: str
    start: int
    end: int


class StoredTensors(NamedTuple):
    """What a file's header says: where its tensors lie, by name, in the order of their bytes, and texts besides."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] | None


def read_header(file: Path) -> dict[str, TensorHeader]:
    """Return what a file's header says of its tensors, by name; see :func:`stored_tensors`.

    Raises:
        ConfigurationError: the file is not what its header says, or holds no tensors.
    """
    try:
        stored = read_stored(file).tensors
    except (FormatError, OSError) as error:
        raise ConfigurationError(
            f"{file}: not a complete safetensors file ({error}). It may have been cut short; copy or download it again."
        ) from error
    if not stored:
        raise ConfigurationError(f"{file}: holds no tensors. Save or download the model again.")
    return {name: TensorHeader(tensor.shape, tensor.dtype) for name, tensor in stored.items()}


def read_stored(file: Path) -> StoredTensors:
    """Return what the header of a file says; see :func:`stored_tensors`."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return stored_tensors(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def stored_tensors(descriptor: int, size: int) -> StoredTensors:
    """Return what the header of an open file says.

    Read, not mapped: a mapped file that somebody cuts short ends the process. As safetensors demands, the header is
    bounded, and tensors follow each other without gaps up to the end of the file.

    Args:
        descriptor: of the file.
        size: its bytes.

    Raises:
        FormatError: it is not what its header says.
        OSError: it cannot be read.
    """
    length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, 0), "little")
    begin = _LENGTH_BYTES + length
    if size < _LENGTH_BYTES or begin > size or length > MAX_HEADER_BYTES:
        raise FormatError(f"its header would take {length} of its {size} bytes")
    header = parse_json(os.pread(descriptor, length, _LENGTH_BYTES), "its header", max_bytes=MAX_HEADER_BYTES)
    metadata = header.pop("__metadata__", None)
    found = [(name, _stored_tensor(name, entry, begin)) for name, entry in header.items()]
    tensors = dict(sorted(found, key=lambda item: (item[1].start, item[1].end)))
    for name, tensor in tensors.items():
        if tensor.start != begin:
            raise FormatError(f"the bytes of {name} begin at {tensor.start}, not at {begin}")
        begin = tensor.end
    if begin != size:
        raise FormatError(f"its tensors end at byte {begin} of {size}")
    return StoredTensors(tensors, metadata)


def sort_metadata(file: Path) -> None:
    """Put what a file's header says besides its tensors in the order of its keys, and change nothing else.

    safetensors writes it in the order of a hash table, which is another one every time: two files of equal tensors have
    different digests.
    """
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        header = json.loads(stream.read(length))
        if isinstance(metadata := header.get("__metadata__"), dict):
            header["__metadata__"] = dict(sorted(metadata.items()))
        written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(written) > length:
            raise EvaluationError(f"{file}: its header is not in the form in which safetensors writes it.")
        stream.seek(_LENGTH_BYTES)
        stream.write(written.ljust(length))


def _stored_tensor(name: str, entry: Any, begin: int) -> StoredTensor:
    try:
        shape, (start, end), dtype = tuple(entry["shape"]), entry["data_offsets"], entry["dtype"]
        bits = _BITS.get(dtype) or int("".join(filter(str.isdigit, dtype.partition("_")[0])))
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"its header says nothing usable of {name}") from error
    if not whole or (end - start) * 8 != math.prod(shape) * bits:
        raise FormatError(f"{name} takes the bytes {start} to {end}, which is not what {dtype} {list(shape)} takes")
    return StoredTensor(shape, dtype, begin + start, begin + end)


def is_inside(name: str) -> bool:
    """Tell whether a name from elsewhere is a relative path that stays in its directory."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and "\0" not in name


def _indexed_weights(files: CheckpointFiles) -> tuple[Path, ...]:
    shards = indexed_shards(files.path / INDEX)
    missing = [shard for shard in shards if not (files.path / shard).is_file()]
    if missing:
        raise ConfigurationError(
            f"{files.path}: {len(missing)} of {len(shards)} weight files are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}). Complete the download."
        )
    return tuple(files.path / shard for shard in shards)
