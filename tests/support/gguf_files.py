"""GGUF files made of model directories, as llama.cpp's converter makes them, by the ``gguf`` package's own writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pytest_proofpack.models.files import CheckpointFiles

Array = NDArray[Any]
FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
    "Q5_0": gguf.LlamaFileType.MOSTLY_Q5_0,
    "Q4_K": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "Q6_K": gguf.LlamaFileType.MOSTLY_Q6_K,
}
_SCALES = {"Q4_K": (0, 2), "Q6_K": (208,)}
"""Where a block has its scales, two bytes each, of types that the package dequantizes and does not quantize."""


def write_gguf(
    path: Path,
    model: Path,
    kind: str = "F32",
    *,
    tokenizer: bool = True,
    tensors: Mapping[str, Array] | None = None,
    keys: Mapping[str, object] | None = None,
) -> Path:
    """Write the model of a directory, whose weights are one safetensors file in float32, as a GGUF file.

    Args:
        path: the file to write.
        model: the directory.
        kind: how matrices are stored; vectors are float32.
        tokenizer: whether its byte-level tokenizer is written too.
        tensors: more tensors, by GGUF's names.
        keys: more keys, or other values for those that the configuration gives; None leaves a key out.
    """
    config = CheckpointFiles.at(model).config
    architecture = {"mistral": "llama"}.get(config["model_type"], str(config["model_type"]))
    writer = gguf.GGUFWriter(path, architecture)
    given = {**_keys(config, architecture), "general.file_type": int(FILE_TYPES[kind]), **(keys or {})}
    for key, value in given.items():
        if value is not None:
            _add(writer, key, value)
    if tokenizer:
        _add_tokenizer(writer, model)
    quantization = gguf.GGMLQuantizationType[kind]
    names = gguf.get_tensor_name_map(_architecture(architecture), config["num_hidden_layers"])
    for name, array in load_file(model / "model.safetensors").items():
        own = _converted(name, array, config, architecture)
        stored = quantization if own.ndim > 1 else gguf.GGMLQuantizationType.F32
        data = quantized(own, stored)
        writer.add_tensor(_gguf_name(names, name), data, raw_dtype=stored)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantized(array: Array, kind: gguf.GGMLQuantizationType) -> Array:
    """Return values as blocks; of a type that only llama.cpp makes, blocks that look like them: seeded, and small."""
    if kind.name not in _SCALES:
        return gguf.quantize(np.ascontiguousarray(array, dtype=np.float32), kind)
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = array.shape
    blocks = np.random.default_rng(rows).integers(0, 256, (rows, columns // values, size), dtype=np.uint8)
    for place in _SCALES[kind.name]:
        blocks[..., place : place + 2] = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def _gguf_name(names: gguf.TensorNameMap, name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    found = names.get_name(stem)
    assert found is not None, name
    return f"{found}.{suffix}"


def _keys(config: Mapping[str, Any], architecture: str) -> dict[str, object]:
    heads = config["num_attention_heads"]
    own = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads", heads),
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "attention.key_length": config.get("head_dim") or config["hidden_size"] // heads,
        "rope.freq_base": float((config.get("rope_parameters") or {}).get("rope_theta", 10000.0)),
        "rope.dimension_count": config.get("head_dim") or config["hidden_size"] // heads,
        "vocab_size": config["vocab_size"],
    }
    return {"general.name": "small", **{f"{architecture}.{key}": value for key, value in own.items()}}


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            raise AssertionError(key)


def _add_tokenizer(writer: gguf.GGUFWriter, model: Path) -> None:
    document = json.loads((model / "tokenizer.json").read_text())
    settings = json.loads((model / "tokenizer_config.json").read_text())
    special = {token["content"]: token["id"] for token in document["added_tokens"]}
    by_id = {number: token for token, number in {**document["model"]["vocab"], **special}.items()}
    kinds = [gguf.TokenType.CONTROL if by_id[i] in special else gguf.TokenType.NORMAL for i in range(len(by_id))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([by_id[number] for number in range(len(by_id))])
    writer.add_token_types(kinds)
    merges = document["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    end = settings["eos_token"]
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(special[end if isinstance(end, str) else end["content"]])


def _converted(name: str, array: Array, config: Mapping[str, Any], architecture: str) -> Array:
    """Return a tensor as GGUF has it: rotary halves of llama interleaved, gemma's norms one larger."""
    if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        return array.reshape(heads, 2, array.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return array + 1
    return array


def _architecture(name: str) -> gguf.MODEL_ARCH:
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
