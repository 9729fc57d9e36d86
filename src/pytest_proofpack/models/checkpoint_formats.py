"""In which forms a checkpoint's weights can lie in its directory, and what is done about each.

A form is one record in ``models/formats/``; an extension registers its own with :data:`CHECKPOINT_FORMATS`. The first
record that recognises a directory is its format, those of extensions before the package's own, so that the plain
``safetensors``, which recognises any, comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.models.safetensors_files import TensorHeader, read_header, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from pytest_proofpack.models.files import CheckpointFiles

ReadConfig: TypeAlias = "Callable[[], PreTrainedConfig]"
"""Returns a directory's configuration as transformers reads it."""


class Loaded(StrEnum):
    """How weights lie in memory once they are loaded."""

    DENSE = "dense"
    """One floating-point value per weight, whatever the files hold."""
    PACKED = "packed"
    """As the package that made them keeps them."""


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
    """

    name: str
    recognises: Callable[[CheckpointFiles], bool]
    refuses: Callable[[CheckpointFiles], str] | None = None
    weights: Callable[[CheckpointFiles], tuple[Path, ...]] = weight_files
    header: Callable[[Path], Mapping[str, TensorHeader]] = read_header
    loaded: Loaded = Loaded.DENSE
    arguments: Callable[[CheckpointFiles, ReadConfig], Mapping[str, Any]] = lambda _files, _read_config: {}
    advice: Callable[[CheckpointFiles], str] = lambda _files: ""

    @property
    def supported(self) -> bool:
        """Whether such checkpoints can be loaded at all."""
        return self.refuses is None


CHECKPOINT_FORMATS: Registry[CheckpointFormat] = Registry(
    "checkpoint format", "pytest_proofpack.models.formats:FORMATS"
)
"""Formats by name."""


def format_of(files: CheckpointFiles) -> CheckpointFormat:
    """Return the format of a directory."""
    own = CHECKPOINT_FORMATS.added
    rest = (known for name, known in CHECKPOINT_FORMATS.items() if name not in own)
    return next(known for known in chain(own.values(), rest) if known.recognises(files))
