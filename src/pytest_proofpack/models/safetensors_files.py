"""Weights in safetensors: which files of a directory hold them, and what their headers say."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from pytest_proofpack.common.strict_json import read_json
from pytest_proofpack.errors import ConfigurationError, FormatError

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


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
    try:
        weight_map = read_json(index, f"{index}").get("weight_map")
    except FormatError as error:
        raise ConfigurationError(f"{error}. Save or download the model again.") from error
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise ConfigurationError(f"{index}: has no weight_map from tensors to files. Save or download the model again.")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not is_inside(shard) or not shard.endswith(".safetensors"):
            raise ConfigurationError(
                f"{index}: refers to {shard!r}, which is not a safetensors file inside the directory. Don't use this "
                "model unless you know why; save or download it again."
            )
    return tuple(shards)


def read_header(file: Path) -> dict[str, TensorHeader]:
    """Return what a file's header says of its tensors, by name, after safetensors has validated it.

    It checks the header's size, its JSON, and that tensors fill the file exactly.

    Raises:
        ConfigurationError: the file is not what its header says, or holds no tensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            entries = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            found = {name: TensorHeader(tuple(entry.get_shape()), entry.get_dtype()) for name, entry in entries.items()}
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"{file}: not a complete safetensors file ({error}). It may have been cut short; copy or download it again."
        ) from error
    if not found:
        raise ConfigurationError(f"{file}: holds no tensors. Save or download the model again.")
    return found


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
