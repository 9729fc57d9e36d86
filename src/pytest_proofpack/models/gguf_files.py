"""Which GGUF file of a directory is the model, and what its checked header says; no torch is loaded."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.common.files import FileState, file_state
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.models.gguf_header import GgufHeader, read_gguf_header
from pytest_proofpack.models.gguf_types import BlockType, file_type_name
from pytest_proofpack.plan.places import SINGLE_FILE
from pytest_proofpack.plan.quantization import Quantization, quantization_words

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

METHOD = "gguf"
TOKENS = "tokenizer.ggml.tokens"
_SPLIT = re.compile(r".*-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_BITS = re.compile(r"\d+")
_SYMMETRIC = {"Q4_0": True, "Q5_0": True, "Q8_0": True, "Q4_1": False, "Q5_1": False, "Q4_K": False, "Q5_K": False}
_SHOWN = 3
_KNOWN = 64


def gguf_names(files: CheckpointFiles) -> list[str]:
    """Return the names of the GGUF files at the top of a directory."""
    return [name for name in files.names if name.lower().endswith(SINGLE_FILE)]


def gguf_weights(files: CheckpointFiles) -> tuple[Path, ...]:
    """Return the one GGUF file of a directory.

    Raises:
        ConfigurationError: there are several, or it is a part of one.
    """
    names = gguf_names(files)
    if split := next((match for name in names if (match := _SPLIT.fullmatch(name))), None):
        raise ConfigurationError(
            f"{files.path}: holds a GGUF file that is split in {int(split['count'])} ({split[0]}). Join them: "
            f"llama-gguf-split --merge {split[0]} model.gguf."
        )
    if len(names) > 1:
        raise ConfigurationError(
            f"{files.path}: holds {len(names)} GGUF files ({', '.join(names[:_SHOWN])}"
            f"{', ...' if len(names) > _SHOWN else ''}). Nobody can tell which one is meant; name the file itself."
        )
    return (files.path / names[0],)


def gguf_header(files: CheckpointFiles) -> GgufHeader:
    """Return what the header of a directory's GGUF file says.

    Raises:
        ConfigurationError: it is not what it should be.
    """
    return checked_header(files.weights[0])


def checked_header(file: Path) -> GgufHeader:
    """Return what the header of a file says, read again only if the file has changed.

    Raises:
        ConfigurationError: it is not a file that can be loaded; says what is wrong and what to do.
    """
    return _checked(file, file_state(file))


@lru_cache(maxsize=_KNOWN)
def _checked(file: Path, _state: FileState) -> GgufHeader:
    try:
        header = read_gguf_header(file)
        _require_plausible(header)
    except (FormatError, OSError) as error:
        raise ConfigurationError(
            f"{file}: not a GGUF file that can be read ({error}). Copy or download it again, or convert it anew."
        ) from error
    return header


def gguf_label(files: CheckpointFiles) -> str:
    """Return what the edit of a GGUF file is called: ``gguf:`` and how it is quantized, for example ``gguf:Q4_K_M``."""
    return f"{METHOD}:{_kind(gguf_header(files))}"


def gguf_quantization(files: CheckpointFiles) -> Quantization:
    """Return in words how a GGUF file is quantized, or as which numbers its matrices are stored."""
    header = gguf_header(files)
    matrices = {name: tensor for name, tensor in header.tensors.items() if len(tensor.shape) > 1}
    values: Counter[BlockType] = Counter()
    for tensor in matrices.values():
        values[tensor.type] += prod(tensor.shape)
    packed = [kind for kind in values if kind.values > 1]
    most = max(packed or values, key=values.__getitem__)
    bits = _BITS.search(most.name)
    return quantization_words(
        METHOD,
        _kind(header),
        bits=None if bits is None else int(bits[0]),
        group=most.values if packed else None,
        symmetric=_SYMMETRIC.get(most.name),
        ignored=[name for name, tensor in matrices.items() if packed and tensor.type.values == 1],
    )


def _kind(header: GgufHeader) -> str:
    kinds = ((tensor.type.name, tensor.shape) for tensor in header.tensors.values())
    return file_type_name(header.values.get("general.file_type"), kinds)


def _require_plausible(header: GgufHeader) -> None:
    """Make sure that it is a model, and that the one the keys describe is no larger than the tensors.

    It is built before they are read.

    Raises:
        FormatError: it is none, or larger.
    """
    kind = header.values.get("general.type", "model")
    if kind != "model":
        raise FormatError(f"it says that it holds no model but {str(kind)[:40]!r}")
    blocks, width = header.own("block_count"), header.own("embedding_length")
    if type(blocks) is not int or not 0 < blocks <= len(header.tensors):
        raise FormatError(f"its block_count is {blocks!r}, but it has {len(header.tensors)} tensors")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != width:
        raise FormatError(f"its embedding_length is {width!r}, which is not the width of token_embd.weight")
