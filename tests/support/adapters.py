"""Adapters for the embedded model, made by the real peft and saved as a user would."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.edited_checkpoints import EMBEDDED

TARGETS = ("q_proj", "v_proj", "down_proj")


def save_adapter(
    target: Path, kind: str = "LORA", *, base: Path = EMBEDDED, noise: float = 0.02, **values: Any
) -> Path:
    """Give every weight of an adapter a seeded value, as if it had been trained, and save it; return the directory.

    Args:
        target: the directory to make.
        kind: ``peft_type``.
        base: directory of the model that it is for, or its GGUF file.
        noise: standard deviation of what is added to its weights.
        values: of its configuration; ``target_modules`` are :data:`TARGETS` unless told.
    """
    values = {"target_modules": list(TARGETS), "task_type": "CAUSAL_LM", **values}
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](**values)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = get_peft_model(_loaded(base), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(noise * torch.randn_like(parameter))
        model.save_pretrained(str(target))
    (target / "README.md").unlink(missing_ok=True)
    return target


def reconfigure(adapter: Path, **values: object) -> Path:
    """Change what an adapter says of itself, and return its directory."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return adapter


def merged_by_peft(adapter: Path, base: Path = EMBEDDED) -> PreTrainedModel:
    """Return what a user gets who loads and merges an adapter as peft's documentation says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(_loaded(base), str(adapter))
        merged: PreTrainedModel = model.merge_and_unload()
    return merged


def _loaded(base: Path) -> PreTrainedModel:
    place, file = (base.parent, {"gguf_file": base.name}) if base.is_file() else (base, {})
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(place, **file)
    return model
