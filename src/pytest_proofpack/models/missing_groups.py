"""Whole groups of matrices that a checkpoint lacks: every ``gate_proj`` of a model, say.

A tensor that was lost shows up among the keys that loading reports, and the invariants judge it. Where all of a kind
are missing, the files are of a form that nobody said they were, and transformers would fill the model with random
values: what came out would say nothing of the checkpoint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from pytest_proofpack.common.words import first_of, printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.safetensors_files import TensorHeader, read_header

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_FORMS: Mapping[str, re.Pattern[str]] = {
    "optimum-quanto": re.compile(r"\.weight\._(data|scale|shift)"),
    "GPTQ or AWQ": re.compile(r"\.(qweight|qzeros|g_idx)"),
    "compressed-tensors": re.compile(r"\.weight_(packed|shape)"),
    "bitsandbytes": re.compile(r"\.weight\.(absmax|quant_map|quant_state\..*)|\.SCB"),
    "HQQ": re.compile(r"\.W_q"),
    "mxfp4": re.compile(r"_proj_(blocks|scales)"),
    "peft, not merged": re.compile(r"\.base_layer\.(weight|bias)|\.lora_[AB]\..*"),
}
"""By the name of a form, how the names of its tensors end."""
_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.)")
_FEWEST = 2
"""Of matrices in a group: what there is once may be tied, or left out by intent."""
_MADE_UP_FOR = 0.5
"""Part of the missing values that is under other names, from which on they may be the same."""
_SHOWN = 6
_NAME_LENGTH = 120


def require_all_groups(files: CheckpointFiles, base: CheckpointFiles) -> None:
    """Make sure that a checkpoint holds every group of matrices that its baseline has, from the headers of both.

    Names may differ in how they begin. Where the baseline's files are of another form or of another type of model, or
    as many values stand under other names, which transformers may know, nothing can be told here.

    Raises:
        ConfigurationError: groups are missing; names the form that the files have instead, if it is known.
    """
    both = files, base
    if any(own.format.header is not read_header or own.quantization_method is not None for own in both):
        return
    if files.config.get("model_type") != base.config.get("model_type"):
        return
    theirs, ours = (_groups(own.tensors) for own in both)
    missing = {name: values for name, values in ours.items() if not any(_is_same(name, other) for other in theirs)}
    if not missing:
        return
    others = {name: values for name, values in theirs.items() if not any(_is_same(name, own) for own in ours)}
    form = next((form for form, ending in _FORMS.items() if any(_ends(ending, name) for name in files.tensors)), None)
    if form is None and sum(others.values()) >= _MADE_UP_FOR * sum(missing.values()):
        return
    why = "" if form is None else f" Its tensors are those of {form}, of which its config.json says nothing."
    raise ConfigurationError(
        f"{files.path}: whole groups of matrices that the baseline has are missing ({_list(missing)}), so random "
        f"values would be measured.{why} Load it where it was made, and save the whole model dense: "
        "model.save_pretrained(directory)."
    )


def missing_groups(shapes: Mapping[str, Collection[int]], missing: Collection[str]) -> list[str]:
    """Return the groups of matrices of a loaded model that are missing whole.

    Args:
        shapes: of all of its parameters.
        missing: those that loading filled with fresh values.
    """
    members: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            members.setdefault(_group(name), []).append(name)
    lost = set(missing)
    return [group for group, names in members.items() if len(names) >= _FEWEST and lost.issuperset(names)]


def _groups(tensors: Mapping[str, TensorHeader]) -> dict[str, int]:
    """Return how many floating-point values the matrices of each group hold; of groups of several."""
    counts: dict[str, list[int]] = {}
    for name, header in tensors.items():
        if len(header.shape) > 1 and header.dtype.startswith(("F", "BF")):
            counts.setdefault(_group(name), []).append(math.prod(header.shape))
    return {name: sum(values) for name, values in counts.items() if len(values) >= _FEWEST and "*" in name}


def _group(name: str) -> str:
    return _NUMBER.sub("*", name)


def _is_same(one: str, other: str) -> bool:
    """Tell whether two names differ at most in how they begin."""
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


def _ends(ending: re.Pattern[str], name: str) -> bool:
    found = ending.search(name)
    return found is not None and found.end() == len(name)


def _list(names: Iterable[str]) -> str:
    return first_of([printable(name)[:_NAME_LENGTH] for name in names], _SHOWN)
