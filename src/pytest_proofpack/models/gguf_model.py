"""What transformers makes of a GGUF file besides the weights: configuration, tokenizer, names of tensors.

It reads them through a path that it maps. It is given a copy in memory: the header, which has been checked, and as many
zeros as the file is longer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import CONFIG, CheckpointFiles
from pytest_proofpack.models.gguf_files import TOKENS, checked_header, gguf_header
from pytest_proofpack.models.gguf_header import GgufHeader, read_gguf_header
from pytest_proofpack.models.private_copy import PrivateCopy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_IDS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
_NOT_OF_A_CONFIG = ("_model_name_or_path", "unk_token_id")
_READS_SCALING = frozenset({"gpt-oss", "gpt_oss", "qwen35", "qwen35moe"})
"""Architectures of which transformers reads how rotary positions are scaled."""
_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_UNSCALED = frozenset({None, "", "none"})
_SHARED = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "quantization_config",
)  # fmt: skip
"""Keys in which ``config.json`` and header have to agree. The last one no header has."""
_CALLED = {"mistral": "llama"}
"""By type of model, what a GGUF file calls it; ``config.json`` tells which it is."""
_KNOWN = 16


def configuration(files: CheckpointFiles) -> JsonObject:
    """Return the configuration of a GGUF file: ``config.json`` beside it, else what transformers makes of its header.

    Whatever it says of a type of numbers, the weights are loaded in float32.

    Raises:
        ConfigurationError: transformers does not know the architecture, or leaves out what the file says of it; or
            ``config.json`` is of another model.
    """
    stated = _stated(files)
    written = files.written_config if CONFIG in files.names else None
    if written is None:
        _require_read(files)
    else:
        _require_same_model(files, written, stated)
    chosen = stated if written is None else {key: value for key, value in written.items() if key != "torch_dtype"}
    return {**chosen, "dtype": "float32"}


def tokenizer(files: CheckpointFiles) -> PreTrainedTokenizerBase:
    """Return the tokenizer that transformers makes of a GGUF file.

    Raises:
        ValueError, KeyError, TypeError: what transformers raises where it cannot.
        ConfigurationError: the file has changed.
    """
    from transformers import AutoTokenizer

    made: PreTrainedTokenizerBase
    with tempfile.TemporaryDirectory() as empty, _header_copy(files) as copy:  # beside the file, others may lie
        made = AutoTokenizer.from_pretrained(empty, gguf_file=str(copy.path), local_files_only=True)
    return made


def tokens(files: CheckpointFiles) -> list[str]:
    """Return the tokens that a GGUF file names, by id.

    Raises:
        ConfigurationError: they cannot be read, or the file has changed.
    """
    from transformers.integrations.gguf.reader import read_gguf_metadata

    with _header_copy(files) as copy:
        try:
            found = read_gguf_metadata(str(copy.path), (TOKENS,))[0].get(TOKENS, [])
        except ValueError as error:
            raise ConfigurationError(
                f"{files.weights[0]}: its tokens cannot be read ({error}). Convert the model anew."
            ) from error
    return found if isinstance(found, list) and all(isinstance(token, str) for token in found) else []


def unread(header: GgufHeader, model: PreTrainedModel) -> tuple[str, ...]:
    """Return the tensors of a GGUF file that transformers had no place for in a model, and left out without a word."""
    from transformers import modeling_gguf_pytorch_utils as loader
    from transformers.integrations.gguf.utils import is_gguf_arch_supported

    if is_gguf_arch_supported(header.architecture):
        return ()  # loaded by name, so that transformers itself reports what has no place
    make: Any = loader.TENSOR_PROCESSORS.get(header.architecture, loader.TensorProcessor)
    with _one_table(model.config.model_type):
        places: Any = loader.get_gguf_hf_weights_map(model, make(config=model.config.to_dict()))
    taken = {"output.weight", *_FACTORS, *places}
    return tuple(sorted(name for name in header.tensors if not {name, name.removesuffix(".weight")} & taken))


@contextmanager
def while_loading(files: CheckpointFiles) -> Iterator[None]:
    """Keep the bar off the terminal that transformers draws while it dequantizes, whatever it was told of bars."""
    from transformers import modeling_gguf_pytorch_utils as loader

    with _replaced(loader, "tqdm", lambda items, **_options: items), _one_table(files.config["model_type"]):
        yield


@contextmanager
def _one_table(model_type: str) -> Iterator[None]:
    """Let the table of names be made once, and be found for a type of model that a GGUF file calls otherwise.

    transformers asks for it again for every module: most of the loading.
    """
    import gguf

    called = _CALLED.get(model_type)
    names = {key: model_type if name == called else name for key, name in gguf.MODEL_ARCH_NAMES.items()}
    once = cache(gguf.get_tensor_name_map)
    with _replaced(gguf, "MODEL_ARCH_NAMES", names), _replaced(gguf, "get_tensor_name_map", once):
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _header_copy(files: CheckpointFiles) -> Iterator[PrivateCopy]:
    """Give a copy of a file's header, the one that was checked.

    Raises:
        ConfigurationError: the file has changed meanwhile.
    """
    file, header = files.weights[0], gguf_header(files)
    with PrivateCopy(file, header.data) as copy:
        if read_gguf_header(copy.descriptor) != header:
            raise ConfigurationError(f"{file}: changed on disk while it was read. Leave it alone, and begin anew.")
        yield copy


@lru_cache(maxsize=_KNOWN)
def _stated(files: CheckpointFiles) -> JsonObject:
    """Return what transformers makes of a file's header."""
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS, get_gguf_config
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    header = gguf_header(files)
    try:
        with _header_copy(files) as copy:
            if header.architecture in GGUF_CONFIG_ARCHS:
                made = get_gguf_config(*read_gguf_metadata(str(copy.path)))
            else:
                made = load_gguf_checkpoint(str(copy.path), return_tensors=False)["config"]  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ImportError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise ConfigurationError(
            f"{files.weights[0]}: the installed transformers makes no model of a GGUF file of the architecture "
            f"{header.architecture} ({reason}). Certify the model that it was made of, or one in safetensors."
        ) from error
    width = header.own("attention.key_length")
    if type(width) is int and "head_dim" not in made:  # which is otherwise that of one published model
        made = {**made, "head_dim": width}
    ids = {name: header.values.get(f"tokenizer.ggml.{key}") for name, key in _IDS.items()}
    known = {key: _plain(value) for key, value in made.items() if key not in _NOT_OF_A_CONFIG}
    return {**ids, **known}  # what the file does not name is None, not some other model's


def _require_read(files: CheckpointFiles) -> None:
    """Make sure that transformers reads everything of a header that changes what the model computes.

    Raises:
        ConfigurationError: it does not, so it would make another model of it and say nothing.
    """
    header = checked_header(files.weights[0])
    scaling = header.own("rope.scaling.type")
    what = None
    if header.architecture not in _READS_SCALING:
        if header.tensors.keys() & set(_FACTORS) or not (
            scaling in _UNSCALED or header.own("rope.scaling.factor") in {None, 1.0}
        ):
            what = "scales rotary positions"
        elif header.architecture in {"llama", "mistral"} and header.own("expert_count"):
            what = "is a mixture of experts"
    if what is not None:
        raise ConfigurationError(
            f"{files.weights[0]}: {what}, which transformers does not read from a GGUF file of the architecture "
            f"{header.architecture}. Put the config.json of the model that it was made of beside it, alone with it in "
            "a directory."
        )


def _require_same_model(files: CheckpointFiles, written: JsonObject, stated: JsonObject) -> None:
    """Make sure that ``config.json`` and the header are of one model.

    Raises:
        ConfigurationError: they are not; names where they differ.
    """
    own = {**stated, "model_type": written.get("model_type")} if _names_type(written, stated) else stated
    differing = [
        f"{key} {str(written[key])[:40]}, not {own.get(key)}"
        for key in _SHARED
        if written.get(key) is not None and written[key] != own.get(key)
    ]
    if differing:
        raise ConfigurationError(
            f"{files.path / CONFIG}: is not of the model in {files.weights[0].name} ({', '.join(differing)}). Put its "
            "own beside it, or none."
        )


def _names_type(written: JsonObject, stated: JsonObject) -> bool:
    """Tell whether ``config.json`` names a type of model that GGUF files call as this one does."""
    return _CALLED.get(str(written.get("model_type")), "") == stated.get("model_type")


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; a float, of which the file has 32 bits, by its shortest name: 1e-05."""
    value = value.item() if hasattr(value, "item") else value
    return float(str(np.float32(value))) if isinstance(value, float) and np.float32(value) == value else value
