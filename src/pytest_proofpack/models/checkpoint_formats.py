"""In which forms a checkpoint's weights can lie in its directory, and what is done about each.

A checkpoint has two readings: the model as it is loaded and run, and its weights, one dense tensor by each of the
baseline's names. Where it is loaded dense, both are the same. Where it stays packed, losses, activations and
distributions come from the model as its tool runs it, and everything that is said of weights from what
``CheckpointFormat.dequantize`` yields.

A form is one record in ``models/formats/``; an extension registers its own with :data:`CHECKPOINT_FORMATS`. The first
record that recognises a directory is its format, those of extensions before the package's own, so that the plain
``safetensors``, which recognises any, comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.safetensors_files import TensorHeader, read_header, weight_files
from pytest_proofpack.plan.quantization import Quantization

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from pytest_proofpack.common.strict_json import JsonObject
    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.models.packed_matrices import PackedMatrix
    from pytest_proofpack.plan.records import ModelSpec

ReadConfig: TypeAlias = "Callable[[], PreTrainedConfig]"
"""Returns a directory's configuration as transformers reads it."""


class Loaded(StrEnum):
    """How weights lie in memory once they are loaded."""

    DENSE = "dense"
    """One floating-point value per weight, whatever the files hold."""
    PACKED = "packed"
    """As the package that made them keeps them; ``dequantize`` says what they are worth."""


@dataclass(frozen=True)
class SingleFile:
    """What is done about a form whose one file holds all of a model: weights, configuration, tokenizer.

    Its reader maps a path, so it is given a copy of the file in memory of this process; see
    :mod:`pytest_proofpack.models.private_copy`.

    Attributes:
        argument: of ``from_pretrained``, that names the file.
        config: returns what is as ``config.json`` is of others; where there is one, it may be that.
        has_tokenizer: tells whether the file holds a tokenizer.
        tokenizer: returns the tokenizer that the file holds.
        chat_template: returns the chat template that the file holds, if it holds one.
        has_tokens: tells whether the file names the same tokens for the ids of a vocabulary, and perhaps more.
        unread: returns the names of tensors that loading has left out.
        while_loading: returns the context in which weights are loaded.
        tensor_stems: given modules of the model, returns by each how the names of its tensors begin in the file; None
            if the file has no such layer. Modules of which nobody knows it are left out.
    """

    argument: str
    config: Callable[[CheckpointFiles], JsonObject]
    has_tokenizer: Callable[[CheckpointFiles], bool]
    tokenizer: Callable[[CheckpointFiles], PreTrainedTokenizerBase]
    chat_template: Callable[[CheckpointFiles], str | None]
    has_tokens: Callable[[CheckpointFiles, Mapping[str, int]], bool]
    unread: Callable[[CheckpointFiles, PreTrainedModel], tuple[str, ...]]
    while_loading: Callable[[CheckpointFiles], AbstractContextManager[None]] = lambda _files: nullcontext()
    tensor_stems: Callable[[CheckpointFiles, Iterable[str]], Mapping[str, str | None]] = lambda _files, _modules: {}


@dataclass(frozen=True)
class Addition:
    """What is special about a form that is no model by itself, but what is added to one: to the baseline.

    Attributes:
        require_fit: given its files and the baseline's, makes sure that it can be added to that, from headers alone;
            raises ConfigurationError if not.
        warnings: given its files, the baseline, and the baseline's files, returns what a user should know.
        facts: returns what a certificate records of it, bounded: its file may be hostile.
        merge: given the loaded baseline, its files and its tensors by name, returns the model that comes out; the
            loaded one is changed, and may be it.
    """

    require_fit: Callable[[CheckpointFiles, CheckpointFiles], None]
    warnings: Callable[[CheckpointFiles, ModelSpec, CheckpointFiles], tuple[str, ...]]
    facts: Callable[[CheckpointFiles], JsonObject]
    merge: Callable[[PreTrainedModel, CheckpointFiles, Mapping[str, Tensor]], PreTrainedModel]


@dataclass(frozen=True)
class CheckpointFormat:
    """One form of checkpoints.

    Attributes:
        name: of the format.
        recognises: tells from a directory's configuration and file names whether it is in this form. Nothing but
            these has been read, and none of it has been checked.
        refuses: for a form that is not supported: returns what is wrong and what to do, in words that follow the
            directory's path. None where the form is supported.
        weights: returns the files that hold the weights, all there. By default those of safetensors.
        header: returns what one of these files says of its tensors, by name, checked to fit the file.
        loaded: how its weights lie in memory.
        arguments: returns what ``from_pretrained`` is given besides, or instead of, the usual.
        advice: returns what an error while loading says of the form; a whole sentence, or nothing.
        package: the distribution that loading needs, for example ``compressed-tensors``, which is also the extra that
            installs it. Where it is missing, that is told before anything is loaded; its version is recorded.
        unavailable: returns why a directory can't be loaded with what is installed here, in words that follow its
            path, or None. It is asked before any model is loaded, and only where the package is there.
        quantization: returns in words how the weights are quantized, from the configuration, which nobody has checked;
            None if they are not.
        label: returns what an edit that left this form is called, if the files tell: by default the quantization's
            label.
        dequantize: of a form that stays packed: yields the values of every parameter that the loaded model keeps
            packed, dense and of the dense model's shape, by the name that the parameter has there. It is called once,
            before the model has run. What is not yielded is taken from the model as it is.
        unpacks: of a form whose packed weights this package unpacks before transformers sees them: returns them by
            the names that they have dense; raises ConfigurationError, from the headers, if they don't fit each other.
        single_file: what is done about it, if one file holds all of a model; see :class:`SingleFile`.
        addition: of a form that is no model by itself; None if it is one.
    """

    name: str
    recognises: Callable[[CheckpointFiles], bool]
    refuses: Callable[[CheckpointFiles], str] | None = None
    weights: Callable[[CheckpointFiles], tuple[Path, ...]] = weight_files
    header: Callable[[Path], Mapping[str, TensorHeader]] = read_header
    loaded: Loaded = Loaded.DENSE
    arguments: Callable[[CheckpointFiles, ReadConfig], Mapping[str, Any]] = lambda _files, _read_config: {}
    advice: Callable[[CheckpointFiles], str] = lambda _files: ""
    package: str = ""
    unavailable: Callable[[CheckpointFiles], str | None] = lambda _files: None
    quantization: Callable[[CheckpointFiles], Quantization | None] = lambda _files: None
    label: Callable[[CheckpointFiles], str | None] | None = None
    dequantize: Callable[[PreTrainedModel], Iterable[tuple[str, Tensor]]] | None = None
    unpacks: Callable[[CheckpointFiles], Mapping[str, PackedMatrix]] | None = None
    single_file: SingleFile | None = None
    addition: Addition | None = None

    def __post_init__(self) -> None:
        """Make sure that nobody has to guess what packed weights are worth.

        Raises:
            ConfigurationError: the record has packed weights and does not say what they are worth, or the contrary.
        """
        if (self.loaded is Loaded.PACKED) != (self.dequantize is not None):
            raise ConfigurationError(
                f"checkpoint format {self.name!r}: dequantize belongs to a format that stays packed, and to no other."
            )

    def edit_label(self, files: CheckpointFiles) -> str | None:
        """Return what the edit of a checkpoint in this form is called, if its files tell."""
        if self.label is not None:
            return self.label(files)
        words = self.quantization(files)
        return None if words is None else words.label

    def reason_not_to_load(self, files: CheckpointFiles) -> str | None:
        """Return why a directory in this form can't be loaded here, in words that follow its path; None if it can."""
        if self.refuses is not None:
            return self.refuses(files)
        if self.package and find_spec(self.package.replace("-", "_")) is None:
            return (
                f"has the form {self.name!r}, which the package {self.package} loads, and that is not installed. "
                f'Install it (pip install "pytest-proofpack[{self.package}]"), or save the model dense.'
            )
        return self.unavailable(files)

    @property
    def supported(self) -> bool:
        """Whether such checkpoints can be loaded at all."""
        return self.refuses is None

    @property
    def in_safetensors(self) -> bool:
        """Whether its files are safetensors, whose tensors can be read one by one."""
        return self.header is read_header


CHECKPOINT_FORMATS: Registry[CheckpointFormat] = Registry(
    "checkpoint format", "pytest_proofpack.models.formats:FORMATS"
)
"""Formats by name."""


def format_of(files: CheckpointFiles) -> CheckpointFormat:
    """Return the format of a directory."""
    own = CHECKPOINT_FORMATS.added
    rest = (known for name, known in CHECKPOINT_FORMATS.items() if name not in own)
    return next(known for known in chain(own.values(), rest) if known.recognises(files))
