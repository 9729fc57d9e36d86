"""An adapter merged into a copy of its baseline, by peft: nothing is fetched, and nothing of the adapter's is run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from pytest_proofpack.common.words import first_of, printable
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.adapter_config import ADAPTER_CONFIG, AdapterConfig, read_adapter_config
from pytest_proofpack.models.adapter_patterns import matching_names

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_NAMES_SHOWN = 8


def merge_adapter(model: PreTrainedModel, files: CheckpointFiles, tensors: Mapping[str, Tensor]) -> PreTrainedModel:
    """Add an adapter to a model, in place, and return it: as ``PeftModel.from_pretrained`` and ``merge_and_unload`` do.

    Args:
        model: the baseline, loaded from its files; it is changed.
        files: the adapter's.
        tensors: its tensors, by name.

    Raises:
        EvaluationError: the adapter holds too little or too much for its own configuration on this model.
        ConfigurationError: its configuration cannot be used.
    """
    config = read_adapter_config(files)
    with _quiet_import():
        from peft import PeftModel, PeftType, set_peft_model_state_dict
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
    where = str(files.path / ADAPTER_CONFIG)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config.kind)]
    given = _known_values(config, {field.name for field in fields(kind)}, where)
    given |= matching_names(config.patterns, [name for name, _ in model.named_modules()], where)
    wrapped = PeftModel(model, kind(**given, inference_mode=True))
    found: Any = set_peft_model_state_dict(wrapped, _renamed(dict(tensors), model))
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[PeftType(config.kind)]
    missing = [name for name in found.missing_keys if prefix in name]
    for names, what in ((missing, "lacks"), (found.unexpected_keys, "holds, besides what its configuration asks for,")):
        if names:
            shown = first_of(list(map(printable, sorted(names))), _NAMES_SHOWN)
            raise EvaluationError(
                f"{files.path}: the adapter {what} {shown}. Name the model that it was trained on by "
                "--proofpack-baseline, or save it again with the peft that is installed."
            )
    merged: PreTrainedModel = wrapped.merge_and_unload(progressbar=False)
    return merged


def _known_values(config: AdapterConfig, known: set[str], where: str) -> dict[str, Any]:
    """Return the values that the installed peft knows; what it does not know may be missing if it says nothing.

    Raises:
        EvaluationError: something that is set is unknown.
    """
    unknown = sorted(key for key, value in config.values.items() if key not in known and value)
    if unknown:
        raise EvaluationError(
            f"{where}: the installed peft does not know {', '.join(map(printable, unknown[:_NAMES_SHOWN]))}. Install "
            "the version that the adapter was made with, or a later one."
        )
    return {key: value for key, value in config.values.items() if key in known}


def _renamed(tensors: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors under the names of today, where transformers has renamed a model's modules since."""
    import re

    renaming = getattr(model, "_checkpoint_conversion_mapping", None) or {}
    prefix = "base_model.model."
    renamed = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(prefix)
        for pattern, replacement in renaming.items():
            own, count = re.subn(pattern, replacement, own)
            if count:
                break
        renamed[prefix + own] = tensor
    return renamed


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Keep what packages say of what they could not find off the terminal: peft imports those of quantization too."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
