"""An adapter of peft: what it adds to a model, in a directory of its own. It is merged into the baseline and judged so.

Beside a model it is refused: transformers would load both, and what is digested here would not be what is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.adapter_base import base_warnings
from pytest_proofpack.models.adapter_config import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    read_adapter_config,
)
from pytest_proofpack.models.adapter_fit import adapter_facts, require_fit
from pytest_proofpack.models.checkpoint_formats import Addition, CheckpointFormat
from pytest_proofpack.models.safetensors_files import INDEX, WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from pytest_proofpack.models.files import CheckpointFiles

_MODELS_OWN = frozenset({WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json"})


def _is_adapter(files: CheckpointFiles) -> bool:
    return ADAPTER_CONFIG in files.names


def _refusal(_files: CheckpointFiles) -> str:
    return (
        f"holds a model and an adapter ({ADAPTER_CONFIG}). Move the adapter to a directory of its own, or merge it: "
        "model.merge_and_unload().save_pretrained(directory)."
    )


def _weights(files: CheckpointFiles) -> tuple[Path, ...]:
    """Return the one file that holds an adapter's tensors.

    Raises:
        ConfigurationError: it is not there, or only as a pickle.
    """
    if (files.path / ADAPTER_WEIGHTS).is_file():
        return (files.path / ADAPTER_WEIGHTS,)
    if ADAPTER_PICKLE in files.names:
        raise ConfigurationError(
            f"{files.path}: has its adapter only pickled ({ADAPTER_PICKLE}), which can run code when loaded and is "
            "refused; convert it where you trust it: "
            "PeftModel.from_pretrained(model, directory).save_pretrained(directory)."
        )
    raise ConfigurationError(
        f"{files.path}: holds {ADAPTER_CONFIG}, but no {ADAPTER_WEIGHTS}. Save the adapter again: "
        "model.save_pretrained(directory)."
    )


def _merge(model: PreTrainedModel, files: CheckpointFiles, tensors: Mapping[str, Tensor]) -> PreTrainedModel:
    from pytest_proofpack.models.adapter_merging import merge_adapter

    return merge_adapter(model, files, tensors)


ADAPTER_BESIDE_MODEL = CheckpointFormat(
    "adapter_beside_model",
    recognises=lambda files: _is_adapter(files) and not _MODELS_OWN.isdisjoint(files.names),
    refuses=_refusal,
)
ADAPTER = CheckpointFormat(
    "adapter",
    recognises=_is_adapter,
    weights=_weights,
    package="peft",
    label=lambda files: read_adapter_config(files).label,
    addition=Addition(require_fit=require_fit, warnings=base_warnings, facts=adapter_facts, merge=_merge),
)
