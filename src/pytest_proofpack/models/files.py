"""What can be said of a model directory before torch is loaded: complete, readable, safe to load, and its digest.

Only safetensors are ever loaded. A pickle (``*.bin``, ``*.pt``) runs code of whoever wrote it and is refused.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from pytest_proofpack.common.files import read_several, sha256_file
from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.records import ModelSpec

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
"""The vocabulary files that transformers can build a tokenizer from; one of them must be there."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_DISTRIBUTED_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_NOT_CONTENT = (".git", ".cache", "model.sig")


def check_model_directory(spec: ModelSpec) -> None:
    """Make sure, without loading it, that a model directory holds what loading needs and nothing that misleads it.

    Checked: what :func:`check_checkpoint` checks, and that tokenizer files are there.

    Raises:
        ConfigurationError: with the first problem found, and what to do about it.
    """
    check_checkpoint(spec)
    check_tokenizer_files(model_path(spec))


def check_checkpoint(spec: ModelSpec) -> None:
    """Make sure, without loading it, that a directory holds a model, with or without a tokenizer.

    Checked: ``config.json`` is strict JSON and names a model type; the weights are one ``model.safetensors`` or an
    index whose shards are all there, inside the directory; every safetensors header fits its file; pinned digests
    match. Links are fine as long as they end at a regular file (the hub cache uses them).

    Raises:
        ConfigurationError: with the first problem found, and what to do about it.
    """
    path = model_path(spec)
    config = _read_config(path)
    _refuse_redirections(path, config)
    for file in weight_files(path):
        _check_safetensors(file)
    _check_pins(path, spec)


def model_path(spec: ModelSpec) -> Path:
    """Return the directory of a model.

    Raises:
        ConfigurationError: the model has not been resolved to a directory, or it is none.
    """
    if spec.path is None:
        raise ConfigurationError(
            f"{spec.id}: no local directory is known for this model. Give its path, or allow the download "
            "(--proofpack-net=1)."
        )
    if not spec.path.is_dir():
        problem = "is not a directory" if spec.path.exists() else "does not exist"
        raise ConfigurationError(f"{spec.path}: {problem}. Name the directory that holds config.json and the weights.")
    return spec.path


def check_tokenizer_files(path: Path) -> None:
    """Make sure that a vocabulary is there: without one, transformers builds an empty tokenizer and says nothing.

    Raises:
        ConfigurationError: there is none.
    """
    if not has_tokenizer(path):
        raise ConfigurationError(
            f"{path}: holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}). Save it beside the weights: "
            "tokenizer.save_pretrained(directory)."
        )


def has_tokenizer(path: Path) -> bool:
    """Tell whether a directory holds a vocabulary that a tokenizer can be made of."""
    return any((path / name).is_file() for name in TOKENIZER_FILES)


def model_digest(path: Path, files: Collection[str] = ()) -> str:
    """Return the hexadecimal root digest of a model directory, as OpenSSF Model Signing computes it.

    SHA-256 over the concatenated raw SHA-256 digests of all regular files, links to files followed, links to
    directories not, in the order of their relative paths compared part by part. Names are not hashed. Top-level
    entries that are not part of the model are left out: ``.git*``, ``.cache`` (the hub's download records, which
    hold times) and the signature ``model.sig``.

    Args:
        path: the directory.
        files: digest only these, for a snapshot in the hub's cache, which may hold others that somebody else fetched.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    root = hashlib.sha256()
    try:
        content = [path / relative for relative in sorted(map(PurePosixPath, files) if files else _content(path))]
        for digest in read_several(sha256_file, content):
            root.update(bytes.fromhex(digest))
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or path}: cannot be read ({error.strerror or error}). Make the model's files readable."
        ) from error
    return root.hexdigest()


def _content(path: Path) -> list[PurePosixPath]:
    def fail(error: OSError) -> None:
        raise error

    found: list[PurePosixPath] = []
    for folder, _, names in os.walk(path, onerror=fail):
        relative = PurePosixPath(Path(folder).relative_to(path).as_posix())
        found.extend(relative / name for name in names if (Path(folder) / name).is_file())
    return [file for file in found if not file.parts[0].startswith(_NOT_CONTENT)]


def _read_config(path: Path) -> JsonObject:
    try:
        config = read_json(path / "config.json", f"{path / 'config.json'}")
    except FormatError as error:
        raise ConfigurationError(
            f"{error}. A model directory needs the config.json that model.save_pretrained writes."
        ) from error
    if not isinstance(config.get("model_type"), str):
        raise ConfigurationError(
            f"{path / 'config.json'}: names no model_type, so nobody can tell which architecture to build. Add it."
        )
    return config


def _refuse_redirections(path: Path, config: JsonObject) -> None:
    """Refuse what would make transformers load other weights than those that are checked and digested here."""
    if (path / "adapter_config.json").exists():
        raise ConfigurationError(
            f"{path}: holds an adapter (adapter_config.json). Merge it into its base model and save that: "
            "model.merge_and_unload().save_pretrained(directory)."
        )
    if "transformers_weights" in config:
        raise ConfigurationError(
            f"{path / 'config.json'}: transformers_weights names other weights than {WEIGHTS}. Remove the key, and "
            "give the weights the usual name."
        )
    shard = next((entry.name for entry in path.iterdir() if _DISTRIBUTED_SHARD.fullmatch(entry.name)), None)
    if shard is not None:
        raise ConfigurationError(
            f"{path}: holds a distributed checkpoint ({shard}). Load it where it was made and save the whole model: "
            "model.save_pretrained(directory)."
        )


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files that loading would read.

    Raises:
        ConfigurationError: there are none, or an index that names others than there are.
    """
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if (path / INDEX).is_file():
        return _indexed_shards(path)
    names = sorted(entry.name for entry in path.iterdir())
    pickles = [name for name in names if name.endswith(_PICKLES)]
    others = [name for name in names if name.endswith(".safetensors")]
    dangling = [name for name in names if not (path / name).exists()]
    if dangling:
        advice = f"has links that lead nowhere ({', '.join(dangling[:3])}); complete the download"
    elif others:
        advice = f"has {', '.join(others[:3])}; rename a single file to {WEIGHTS}, or write the index of several"
    elif pickles:
        advice = (
            f"has only pickled weights ({', '.join(pickles[:3])}), which can run code when loaded and are refused; "
            "convert them where you trust them: model.save_pretrained(directory)"
        )
    else:
        advice = "has no weights at all; save the model into it: model.save_pretrained(directory)"
    raise ConfigurationError(f"{path}: neither {WEIGHTS} nor {INDEX} is there. The directory {advice}.")


def _indexed_shards(path: Path) -> list[Path]:
    index = path / INDEX
    try:
        weight_map = read_json(index, f"{index}").get("weight_map")
    except FormatError as error:
        raise ConfigurationError(f"{error}. Save or download the model again.") from error
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise ConfigurationError(f"{index}: has no weight_map from tensors to files. Save or download the model again.")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not _is_inside(shard) or not shard.endswith(".safetensors"):
            raise ConfigurationError(
                f"{index}: refers to {shard!r}, which is not a safetensors file inside the directory. Don't use this "
                "model unless you know why; save or download it again."
            )
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise ConfigurationError(
            f"{path}: {len(missing)} of {len(shards)} weight files are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}). Complete the download."
        )
    return [path / shard for shard in shards]


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and "\0" not in name


def _check_safetensors(file: Path) -> None:
    """Let safetensors validate the header: its size, its JSON, and tensors that fill the file exactly."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            count = len(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"{file}: not a complete safetensors file ({error}). It may have been cut short; copy or download it again."
        ) from error
    if count == 0:
        raise ConfigurationError(f"{file}: holds no tensors. Save or download the model again.")


def _check_pins(path: Path, spec: ModelSpec) -> None:
    for name, expected in spec.sha256.items():
        if not _is_inside(name) or not (path / name).is_file():
            raise ConfigurationError(
                f"{path}: {name} is pinned for {spec.id} but not there. Restore the model's files."
            )
        actual = sha256_file(path / name)
        if actual != expected.lower():
            raise ConfigurationError(
                f"{path / name}: its SHA-256 is {actual}, but {expected} is pinned for {spec.id}. The file was "
                "changed; restore it."
            )


def parameter_count(path: Path) -> int:
    """Return the number of values in the weight files of a checked model directory, read from their headers."""
    total = 0
    for file in weight_files(path):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total
