"""One file of llama.cpp's (``*.gguf``): weights, mostly quantized, with configuration and tokenizer in the same file.

transformers turns the weights into dense ones while it loads them, in float32, which holds every one of their values
exactly; llama.cpp computes with the quantized ones and rounds activations besides. So losses too are those of
dequantized weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat, ReadConfig, SingleFile
from pytest_proofpack.models.gguf_files import (
    METHOD,
    TOKENS,
    checked_header,
    gguf_header,
    gguf_label,
    gguf_names,
    gguf_quantization,
    gguf_weights,
)
from pytest_proofpack.models.safetensors_files import TensorHeader

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_proofpack.common.strict_json import JsonObject
    from pytest_proofpack.models.files import CheckpointFiles


def _recognises(files: CheckpointFiles) -> bool:
    return bool(gguf_names(files)) and not any(".safetensors" in name for name in files.names)


def _headers(file: Path) -> Mapping[str, TensorHeader]:
    """Return shapes, and the type that every tensor has once it is loaded."""
    return {name: TensorHeader(tensor.shape, "F32") for name, tensor in checked_header(file).tensors.items()}


def _arguments(_files: CheckpointFiles, read_config: ReadConfig) -> Mapping[str, Any]:
    import torch
    from transformers import GgufConfig

    config = read_config()
    config.dtype = torch.float32
    return {"config": config, "dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}


def _advice(files: CheckpointFiles) -> str:
    return f"It is a GGUF file of the architecture {gguf_header(files).architecture}."


def _config(files: CheckpointFiles) -> JsonObject:
    from pytest_proofpack.models.gguf_model import configuration

    return configuration(files)


def _has_tokenizer(files: CheckpointFiles) -> bool:
    return TOKENS in gguf_header(files).values


def _tokenizer(files: CheckpointFiles) -> PreTrainedTokenizerBase:
    from pytest_proofpack.models.gguf_model import tokenizer

    return tokenizer(files)


def _chat_template(files: CheckpointFiles) -> str | None:
    found = gguf_header(files).values.get("tokenizer.chat_template")
    return found if isinstance(found, str) else None


def _has_tokens(files: CheckpointFiles, vocabulary: Mapping[str, int]) -> bool:
    from pytest_proofpack.models.gguf_model import tokens

    own = tokens(files)
    return all(number < len(own) and own[number] == token for token, number in vocabulary.items())


def _unread(files: CheckpointFiles, model: PreTrainedModel) -> tuple[str, ...]:
    from pytest_proofpack.models.gguf_model import unread

    return unread(gguf_header(files), model)


def _tensor_stems(files: CheckpointFiles, modules: Iterable[str]) -> Mapping[str, str | None]:
    from pytest_proofpack.models.gguf_names import tensor_stems

    return tensor_stems(gguf_header(files), modules)


def _while_loading(files: CheckpointFiles) -> AbstractContextManager[None]:
    from pytest_proofpack.models.gguf_model import while_loading

    return while_loading(files)


GGUF = CheckpointFormat(
    METHOD,
    recognises=_recognises,
    weights=gguf_weights,
    header=_headers,
    arguments=_arguments,
    advice=_advice,
    package=METHOD,
    quantization=gguf_quantization,
    label=gguf_label,
    single_file=SingleFile(
        argument="gguf_file",
        config=_config,
        has_tokenizer=_has_tokenizer,
        tokenizer=_tokenizer,
        chat_template=_chat_template,
        has_tokens=_has_tokens,
        unread=_unread,
        while_loading=_while_loading,
        tensor_stems=_tensor_stems,
    ),
)
