"""Models and tokenizers from local directories: offline, safetensors only, no foreign code, every problem told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pytest_proofpack.common.shortage import what_ran_out
from pytest_proofpack.common.words import error_line
from pytest_proofpack.errors import ConfigurationError, EvaluationError
from pytest_proofpack.models.code_paths import take_the_usual_path
from pytest_proofpack.models.dense_weights import dense_names, dense_weights
from pytest_proofpack.models.device import gpus_of
from pytest_proofpack.models.files import CONFIG, CheckpointFiles, model_path
from pytest_proofpack.models.quiet import prepare_package, quiet
from pytest_proofpack.models.reading import CheckpointReading
from pytest_proofpack.models.tokenizer import FileTokenizer
from pytest_proofpack.plan.records import ModelSpec

LOAD_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    MemoryError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers, safetensors and torch raise for a model directory that is not what it should be."""

_KEYS_SHOWN = 8


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, without gradients, and what happened while its weights were loaded.

    Attributes:
        model: the model on its device, as it runs.
        weights: what its weights are worth: a model of the same names with dense values, which never runs; ``model``
            itself where that is dense.
        missing: parameters and buffers that the files lack; they hold fresh, seeded random values.
        unexpected: tensors in the files that the model has no place for.
        mismatched: parameters whose stored shape differs; they hold fresh values too.
        warnings: what transformers and torch warned about, in order.
        reading: how its files were read, which knows their digest. The model's own memory is hashed, so it must not be
            changed before :meth:`~pytest_proofpack.models.reading.CheckpointReading.digest` returns.
    """

    model: PreTrainedModel
    weights: PreTrainedModel
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    warnings: tuple[str, ...]
    reading: CheckpointReading


def load_config(spec: ModelSpec) -> PreTrainedConfig:
    """Return the configuration of a model.

    Raises:
        ConfigurationError: it cannot be read, or its architecture is unknown to the installed transformers.
    """
    path = model_path(spec)
    with quiet():
        try:
            config = _read_config(spec)
        except LOAD_ERRORS as error:
            raise ConfigurationError(
                f"{spec.id}: transformers cannot use {path / 'config.json'} ({error_line(error)}). Check the "
                "file, and that this transformers knows the architecture; models with code of their own can't be used."
            ) from error
    return config


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, with an end-of-text token: its own, or else the one that the config names.

    Raises:
        ConfigurationError: no tokenizer can be made of the files, or no end-of-text token is known.
    """
    files = CheckpointFiles.of(spec)
    files.require_tokenizer()
    tokenizer: PreTrainedTokenizerBase
    with quiet():
        try:
            tokenizer = _read_tokenizer(spec, files)
        except Exception as error:
            # tokenizers reports a malformed tokenizer.json as a plain Exception, so nothing narrower catches it.
            raise ConfigurationError(
                f"{spec.id}: no tokenizer can be made of the files in {files.path} ({error_line(error)}). Save it "
                "again: tokenizer.save_pretrained(directory)."
            ) from error
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = end_token(tokenizer, spec)
    return tokenizer


def load_model(
    spec: ModelSpec,
    device: str,
    dtype: torch.dtype | None = None,
    *,
    max_memory: Mapping[int, int] | None = None,
    quantization: object | None = None,
) -> LoadedModel:
    """Load a causal language model from its directory's safetensors.

    Missing and mismatched tensors don't stop the load: they are returned, for the invariants to judge. Their fresh
    values come from a fixed seed, so that a certificate of such a model is reproducible; the random state of the
    caller is left alone. What becomes of weights that are not dense, the checkpoint's format says; see
    :mod:`pytest_proofpack.models.formats`. Which implementation computes the model is not the checkpoint's to say; see
    :mod:`pytest_proofpack.models.code_paths`.

    Args:
        spec: the model; ``path`` must be set.
        device: a torch device.
        dtype: element type to load as; None keeps the checkpoint's own.
        max_memory: bytes of weights by GPU number, to spread a model over several; nothing goes elsewhere.
        quantization: transformers' configuration of a tool that is to quantize a dense model while it is loaded;
            ``weights`` is then not dense.

    Raises:
        ConfigurationError: there is no such directory.
        EvaluationError: the model cannot be loaded.
    """
    reading = CheckpointReading(CheckpointFiles.of(spec), device=device, quantized=quantization is not None)
    model, info, advice = _from_pretrained(spec, device, dtype, max_memory, reading, quantization=quantization)
    if max_memory and any(parameter.is_meta for parameter in model.parameters()):
        raise EvaluationError(
            f"{spec.id}: does not fit the GPUs {', '.join(map(str, max_memory))} beside what certificates need. Use "
            "devices with more memory."
        )
    model.eval().requires_grad_(requires_grad=False)
    dequantize = reading.files.format.dequantize
    with quiet() as messages:
        if dequantize is not None:
            _require_packed_keys(spec, model, [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
        weights = model if dequantize is None else dense_weights(model, dequantize, spec.id)
    own = reading.files.format.single_file
    unread = () if own is None else own.unread(reading.files, model)
    return LoadedModel(
        model=model,
        weights=weights,
        missing=tuple(sorted(info["missing_keys"])),
        unexpected=tuple(sorted({*info["unexpected_keys"], *unread})),
        mismatched=tuple(sorted(name for name, *_ in info["mismatched_keys"])),
        warnings=tuple(dict.fromkeys([*advice, *messages])),
        reading=reading,
    )


def _require_packed_keys(spec: ModelSpec, model: PreTrainedModel, fresh: Sequence[str]) -> None:
    """Make sure that nothing of a packed weight is missing: transformers knows no values to fill a scale with.

    Other parameters get seeded ones, and are judged by the invariants.

    Raises:
        EvaluationError: codes, scales or zero points are missing, or of another shape.
    """
    known = dense_names(model)
    if lost := sorted(name for name in fresh if name not in known):
        shown = f"{', '.join(lost[:_KEYS_SHOWN])}{', ...' if len(lost) > _KEYS_SHOWN else ''}"
        raise EvaluationError(
            f"{spec.id}: loading {model_path(spec)} reports {len(lost)} parts of packed weights that are missing or of "
            f"another shape ({shown}), so whatever memory holds would be measured. Save the model again, whole."
        )


def require_every_key(spec: ModelSpec, loaded: LoadedModel) -> None:
    """Make sure that loading took every tensor of the files, and filled none with fresh values.

    A subject's keys are judged by the invariants; a baseline is what they are judged against. What transformers itself
    declares as harmless is in none of the lists: keys that an architecture ignores, tied weights, old rotary buffers.

    Raises:
        ConfigurationError: a key is missing, mismatched or unexpected.
    """
    kinds = {"missing": loaded.missing, "mismatched": loaded.mismatched, "unexpected": loaded.unexpected}
    found = [
        f"{len(names)} {kind} ({', '.join(names[:_KEYS_SHOWN])}{', ...' if len(names) > _KEYS_SHOWN else ''})"
        for kind, names in kinds.items()
        if names
    ]
    if found:
        raise ConfigurationError(
            f"{spec.id}: the weights in {model_path(spec)} are not those of config.json: {'; '.join(found)}. What is "
            "missing or mismatched would be measured with fresh values. Save or download the baseline again, whole."
        )


def _from_pretrained(
    spec: ModelSpec,
    device: str,
    dtype: torch.dtype | None,
    max_memory: Mapping[int, int] | None,
    reading: CheckpointReading,
    *,
    quantization: object | None,
) -> tuple[Any, dict[str, Any], list[str]]:
    """Return a model as its format says that it is to be loaded, the report of its keys, and what was warned about."""
    files = reading.files
    if files.format.package:
        prepare_package(files.format.package)
    loaded: Any  # the stubs don't know that output_loading_info makes it a pair
    with quiet() as messages, seeded(device, max_memory):
        try:
            usual: dict[str, Any] = {
                "use_safetensors": True,
                "dtype": dtype or "auto",
                "device_map": "auto" if max_memory else device,
                "max_memory": dict(max_memory) if max_memory else None,
                "output_loading_info": True,
                "ignore_mismatched_sizes": True,
                **_local(spec),
            }
            own = dict(files.format.arguments(files, lambda: _read_config(spec)))
            config = own.pop("config", None) or _read_config(spec)
            take_the_usual_path(config)
            own |= {} if quantization is None else {"quantization_config": quantization}
            with reading.instead_of_mapping() as given:
                own |= given
                loaded = AutoModelForCausalLM.from_pretrained(files.path, config=config, **{**usual, **own})
        except LOAD_ERRORS as error:
            if (shortage := what_ran_out(error)) is not None:
                raise EvaluationError(f"{spec.id}: cannot be loaded on {device}: {shortage}") from error
            check = "Check that the installed transformers loads it with AutoModelForCausalLM.from_pretrained."
            raise EvaluationError(
                f"{spec.id}: cannot be loaded from {files.path} on {device} ({error_line(error)}). "
                f"{' '.join(filter(None, (files.format.advice(files), check)))}"
            ) from error
    model, info = loaded
    return model, info, messages


def _read_config(spec: ModelSpec) -> PreTrainedConfig:
    """Return a configuration; what it says of attention is put aside at once, lest it be refused for that."""
    aside = {"attn_implementation": None, "experts_implementation": None, "output_attentions": False}
    files = CheckpointFiles.of(spec)
    if files.format.single_file is not None and CONFIG not in files.names:
        made: PreTrainedConfig = AutoConfig.for_model(**{**files.config, **aside})
        return made
    config: PreTrainedConfig = AutoConfig.from_pretrained(model_path(spec), **aside, **_local(spec))
    return config


def _read_tokenizer(spec: ModelSpec, files: CheckpointFiles) -> Any:
    """Return what transformers makes of a model's tokenizer files, or of the tokenizer that a single file holds."""
    if files.format.single_file is None:
        return AutoTokenizer.from_pretrained(files.path, **_local(spec))
    if files.tokenizer_files:
        return AutoTokenizer.from_pretrained(files.path, config=_read_config(spec), **_local(spec))
    return files.format.single_file.tokenizer(files)


def _local(spec: ModelSpec) -> dict[str, Any]:
    """Return what every loader is told: no network, and code of the model's own only if the suite allows it."""
    return {"local_files_only": True, "trust_remote_code": spec.trust_remote_code}


def end_token(tokenizer: PreTrainedTokenizerBase | FileTokenizer, spec: ModelSpec) -> str:
    """Return the end-of-text token that the config names (the first, where it names several).

    Raises:
        ConfigurationError: it names none that the tokenizer has.
    """
    named = load_config(spec).get_text_config().eos_token_id
    identifier = named[0] if isinstance(named, list) and named else named
    token = tokenizer.convert_ids_to_tokens(identifier) if isinstance(identifier, int) else None
    if not isinstance(token, str):
        raise ConfigurationError(
            f"{spec.id}: neither its tokenizer nor its config names an end-of-text token, to end "
            f"documents with. Set eos_token in {model_path(spec) / 'tokenizer_config.json'}."
        )
    return token


@contextmanager
def seeded(device: str, max_memory: Mapping[int, int] | None) -> Iterator[None]:
    """Let random numbers come from a fixed seed, on a model's devices, and leave the caller's state alone."""
    numbers = [gpu.index for gpu in gpus_of(torch.device(device), max_memory or {})]
    with torch.random.fork_rng(devices=numbers):
        torch.manual_seed(0)
        yield
