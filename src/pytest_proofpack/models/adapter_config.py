"""What an adapter of peft says of itself: its ``adapter_config.json``, read and checked, nothing of it carried out.

The file is somebody else's, and peft takes much of it at its word: strings become regular expressions, one key names a
module to import, others name files to unpickle. So every value has to be plain and of bounded size, names have to be
names, and a key that peft would act upon in another way than by adding to weights is refused, or left out where it
only tells how the adapter was trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.strict_json import JsonObject, parse_json
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError, FormatError

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"

KINDS: Mapping[str, str] = {
    "LORA": "lora",
    "ADALORA": "adalora",
    "IA3": "ia3",
    "LOHA": "loha",
    "LOKR": "lokr",
    "OFT": "oft",
    "HRA": "hra",
    "VERA": "vera",
    "LN_TUNING": "ln_tuning",
    "FOURIERFT": "fourierft",
    "MISS": "miss",
    "RANDLORA": "randlora",
    "SHIRA": "shira",
    "C3A": "c3a",
    "DELORA": "delora",
    "ROAD": "road",
    "GRALORA": "gralora",
    "WAVEFT": "waveft",
}
"""What ``peft_type`` calls the kinds that are merged here, and the label of each. All were tried; BOFT is none of them
because peft compiles code for it."""
PART = re.compile(rf"(hada|trainable_tokens|{'|'.join(KINDS.values())})_")
"""How those parts of a tensor's name begin that are the adapter's own, and no module's."""
BESIDE_THE_INPUT = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT", "CARTRIDGE"}
)
"""Kinds that add to what a model reads: no weight of it changes, so there is nothing to merge."""

_MAX_BYTES = 2**20
_MAX_ENTRIES = 10_000
_MAX_TEXT = 1000
_MAX_NUMBER = 2**53
_SHOWN = 100
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,300}")
_PATTERN_KEY = re.compile(r"\^?(?:[A-Za-z0-9_.\-]|\\[.\-]){1,300}\$?")
"""A key of ``rank_pattern`` and the like is a regular expression to peft; without repeats it is a harmless one."""

PATTERNS = ("target_modules", "exclude_modules", "feedforward_modules")
"""Keys that hold a regular expression where they hold a string."""
ALL_LINEAR = "all-linear"
_NAMES = (*PATTERNS, "modules_to_save", "target_parameters", "layers_pattern")
_TRAINING_ONLY = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "loftq_config",
        "lora_ga_config", "megatron_core", "peft_type", "peft_version", "revision", "runtime_config", "task_type",
    }
)  # fmt: skip
"""Keys that peft is not given: they are read here, or tell how the adapter came to be."""
_ELSEWHERE = frozenset(
    {
        "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "megatron_config",
        "monteclora_config", "use_bdlora", "use_qalora", "velora_config",
    }
)  # fmt: skip
"""Keys that, where they are set, make of an adapter something that does not merge into the weights of the baseline."""
_PLAIN_STARTS = frozenset({"gaussian", "eva", "orthogonal"})
_STARTS_FROM_BASELINE = re.compile(r"olora|pissa(_niter_[0-9]{1,2})?")
_TASKS = (None, "CAUSAL_LM", "FEATURE_EXTRACTION")


@dataclass(frozen=True)
class AdapterConfig:
    """A checked ``adapter_config.json``.

    Attributes:
        kind: ``peft_type``, one of :data:`KINDS`.
        label: what an edit by such an adapter is called: ``lora``, ``dora``, ``rslora``, ``ia3`` ...
        values: what peft is given of it.
        base: the model that it was trained on, as it says; None if it does not.
        revision: that model's, likewise.
    """

    kind: str
    label: str
    values: Mapping[str, Any]
    base: str | None
    revision: str | None

    @property
    def base_name(self) -> str | None:
        """What a reader elsewhere is told of the model that it was trained on: of a directory, its name alone."""
        if self.base is None or not self.base.startswith((".", "~", "/", "\\")):
            return None if self.base is None else printable(self.base)[:_SHOWN]
        return printable(PurePosixPath(self.base).name)[:_SHOWN]

    @property
    def patterns(self) -> dict[str, str]:
        """The regular expressions by which it picks modules, by key."""
        found = {key: self.values.get(key) for key in PATTERNS}
        return {key: text for key, text in found.items() if isinstance(text, str) and text.lower() != ALL_LINEAR}


def read_adapter_config(files: CheckpointFiles) -> AdapterConfig:
    """Read and check the ``adapter_config.json`` of a directory.

    Raises:
        ConfigurationError: it cannot be read, is none of a kind that is merged here, or says something that is neither
            plain nor harmless. The message says what, and what to do.
    """
    path = files.path / ADAPTER_CONFIG
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        values = parse_json(data, str(path), max_bytes=_MAX_BYTES)
    except (FormatError, OSError) as error:
        raise ConfigurationError(
            f"{path}: {error}. Save the adapter again: model.save_pretrained(directory)."
        ) from error
    try:
        return _checked(values)
    except FormatError as error:
        raise ConfigurationError(f"{path}: {error}.") from error


def _checked(values: JsonObject) -> AdapterConfig:
    """Return what a configuration says.

    Raises:
        FormatError: something in it cannot be used; a clause that ends without a full stop.
    """
    for key, value in values.items():
        _require_plain(key, value)
    kind = _kind(values)
    if values.get("task_type") not in _TASKS:
        raise FormatError(
            f"task_type is {_shown(values['task_type'])}; an adapter of a causal language model (CAUSAL_LM) is expected"
        )
    for key in sorted(_ELSEWHERE & values.keys()):
        if values[key]:
            raise FormatError(
                f"{key} is set: such an adapter does not merge into the weights of its baseline. Merge it where it was "
                "made, and certify the model that comes out"
            )
    given = {key: value for key, value in values.items() if key not in _TRAINING_ONLY | _ELSEWHERE}
    for key in _NAMES:
        _require_names(key, given.get(key))
    for key in (key for key in given if key.endswith("_pattern") and key != "layers_pattern"):
        _require_pattern_keys(key, given[key])
    _require_token_names(given.get("trainable_token_indices"))
    given |= _starting_values(given)
    return AdapterConfig(
        kind, _label(kind, values), given, _text(values, "base_model_name_or_path"), _text(values, "revision")
    )


def _kind(values: JsonObject) -> str:
    kind = values.get("peft_type")
    if isinstance(kind, str) and kind in BESIDE_THE_INPUT:
        raise FormatError(
            f"peft_type is {kind}: it changes what the model reads and none of its weights, so it cannot be merged, "
            "and only merged adapters are certified"
        )
    if not isinstance(kind, str) or kind not in KINDS:
        raise FormatError(
            f"peft_type is {_shown(kind)}, which is not merged here ({', '.join(KINDS)} are). Merge it where it was "
            "made, and certify the model that comes out"
        )
    return kind


def _label(kind: str, values: JsonObject) -> str:
    if kind == "LORA" and values.get("use_dora"):
        return "dora"
    if kind == "LORA" and values.get("use_rslora"):
        return "rslora"
    return KINDS[kind]


def _starting_values(given: JsonObject) -> JsonObject:
    """Return ``init_lora_weights`` as peft is to be given it.

    Where training began is of no matter, as every weight of the adapter is read from its file; but PiSSA and OLoRA took
    from the baseline what they began with, and loading does it again.
    """
    start = given.get("init_lora_weights", True)
    if isinstance(start, bool | None) or (isinstance(start, str) and start in _PLAIN_STARTS):
        return {"init_lora_weights": True} if "init_lora_weights" in given else {}
    if isinstance(start, str) and _STARTS_FROM_BASELINE.fullmatch(start):
        return {}
    raise FormatError(
        f"init_lora_weights is {_shown(start)}: training began with another baseline, which only its maker has. "
        "Convert it: save_pretrained(directory, path_initial_model_for_weight_conversion=...)"
    )


def _require_plain(key: str, value: object, depth: int = 2) -> None:
    """Make sure that a value is plain: bounded texts and numbers, or bounded lists and objects of such.

    Raises:
        FormatError: it is not.
    """
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        raise FormatError(
            f"{printable(key)[:_SHOWN]} is a text of {len(value)} characters, more than the {_MAX_TEXT} allowed"
        )
    if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= _MAX_NUMBER):
        raise FormatError(f"{printable(key)[:_SHOWN]} is a number out of all bounds")
    if isinstance(value, list | dict):
        if len(value) > _MAX_ENTRIES or not depth:
            raise FormatError(f"{printable(key)[:_SHOWN]} holds more than {_MAX_ENTRIES} entries, or too deep ones")
        for name, entry in value.items() if isinstance(value, dict) else (("", entry) for entry in value):
            _require_plain(key, name, 0)
            _require_plain(key, entry, depth - 1)


def _require_names(key: str, value: object) -> None:
    """Make sure that a key holds names of modules, or, of :data:`PATTERNS`, one text.

    Raises:
        FormatError: it does not.
    """
    if value is None or (key in PATTERNS and isinstance(value, str)):
        return
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        raise FormatError(f"{key} is {_shown(value)}; names of modules are expected")


def _require_pattern_keys(key: str, value: object) -> None:
    if value is None:
        return
    wrong = [name for name in value if not _PATTERN_KEY.fullmatch(name)] if isinstance(value, dict) else [value]
    if wrong:
        raise FormatError(f"{key} holds {_shown(wrong[0])}; names of modules are expected")


def _require_token_names(value: object) -> None:
    if isinstance(value, dict):
        _require_names("trainable_token_indices", list(value))


def _text(values: JsonObject, key: str) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise FormatError(f"{key} is {_shown(value)}; a text is expected")
    return value or None


def _shown(value: object) -> str:
    return printable(repr(value))[:_SHOWN]
