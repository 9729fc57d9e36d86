"""Whether an adapter fits a baseline, as far as the headers of both tell it: before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import first_of, printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.adapter_config import ADAPTER_CONFIG, PART, AdapterConfig, read_adapter_config
from pytest_proofpack.models.adapter_patterns import matching_names
from pytest_proofpack.models.safetensors_files import read_header

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.models.safetensors_files import TensorHeader

_WRAPPER = "base_model."
PREFIX = f"{_WRAPPER}model."
"""How peft begins the name of every tensor of an adapter that belongs to a module."""
_RANKS = frozenset({"r", "init_r", "target_r"})
_INNER = ("base_layer", "modules_to_save", "original_module", "token_adapter")
"""Parts of a name by which peft tells its own wrappers from a module of the model."""
_HEAD, _EMBEDDING = "lm_head", "embed"
_NAMES_SHOWN = 6
_TARGETS_KEPT = 32
_SHOWN = 120


@dataclass(frozen=True)
class _Place:
    """Where a tensor of an adapter belongs: a module of the model, and what is left of its name, the adapter's own."""

    module: str
    own: str


class _Known:
    """The tensors of a baseline, and the modules that own them.

    How a name begins is the business of whoever saved the files: ``h.0.attn`` may be ``transformer.h.0.attn`` to peft,
    and ``language_model.model.layers.0`` ``model.language_model.layers.0``. So names are known by where they end, too.
    """

    def __init__(self, tensors: Mapping[str, TensorHeader], *, as_loaded: bool = True) -> None:
        """Know tensors by name; ``as_loaded`` tells whether the loaded model has them in these very shapes."""
        self._tensors = tensors
        self._as_loaded = as_loaded
        self._modules = {name[:end] for name in tensors for end in _dots(name)}
        self._ends = {_end(name) for name in self._modules}
        self._by_end: dict[str, set[TensorHeader]] = {}
        for name, header in tensors.items():
            self._by_end.setdefault(_end(name), set()).add(header)
        self._tied = _HEAD not in self._ends and f"{_HEAD}.weight" not in tensors

    @property
    def has_experts(self) -> bool:
        return any("expert" in name for name in self._tensors)

    def modules(self) -> list[str]:
        return sorted(self._modules)

    def has_module(self, name: str) -> bool:
        """Tell whether there is such a module; an empty name is that of the whole."""
        return not name or name in self._modules or _end(name) in self._ends

    def tensor(self, name: str) -> TensorHeader | None:
        """Return a tensor's header; of a head that no file holds, that of the embedding to which it is tied.

        None if there is none, or several by that name.
        """
        if self._tied and name == f"{_HEAD}.weight":
            found = [own for own in self._tensors if own.endswith("weight") and _EMBEDDING in own.rpartition(".")[0]]
            return self._tensors[found[0]] if found else None
        if name in self._tensors:
            return self._tensors[name]
        headers = self._by_end.get(_end(name), set())
        return next(iter(headers)) if len(headers) == 1 else None

    def is_shape(self, header: TensorHeader, shape: tuple[int, ...]) -> bool:
        """Tell whether a tensor has a shape; one that isn't as loaded may lie turned, or without its axes of 1."""
        return header.shape == shape or (not self._as_loaded and _sizes(header.shape) == _sizes(shape))


def require_fit(files: CheckpointFiles, base: CheckpointFiles) -> None:
    """Make sure that an adapter adds to modules that a baseline has, tensors of their shapes.

    Raises:
        ConfigurationError: it does not; names what does not fit. Or its configuration cannot be used.
    """
    config, where = read_adapter_config(files), f"{files.path / ADAPTER_CONFIG}"
    foreign = [name for name in files.tensors if not name.startswith(PREFIX) and not _is_shared(name)]
    if foreign:
        raise ConfigurationError(
            f"{files.path}: holds tensors that peft would not have saved in an adapter ({_list(foreign)}). Save it "
            "again: model.save_pretrained(directory)."
        )
    _require_ranks(config, files, where)
    places = {name: _place(name) for name in files.tensors}
    modules = {place.module for place in places.values()}
    if base.format.header is read_header:
        known = _Known(base.tensors)
        matching_names(config.patterns, known.modules(), where)
        missing = sorted(name for name in modules - {_HEAD} if not known.has_module(name))
        missing = [] if known.has_experts else missing  # transformers fuses and renames them: peft tells it then
    else:
        known, missing = _renamed(base, sorted(modules))
    model = base.path if base.format.single_file is None else base.weights[0]
    if missing:
        raise ConfigurationError(
            f"{files.path}: does not fit the baseline in {model}: that has no {_list(missing)}. Name the model "
            "that the adapter was trained on by --proofpack-baseline."
        )
    wrong = list(_of_other_shapes(files, places, known))
    if wrong:
        raise ConfigurationError(
            f"{files.path}: does not fit the baseline in {model}: {_list(wrong, '; ')}. Name the model that the "
            "adapter was trained on by --proofpack-baseline; where its vocabulary was resized, save it so."
        )


def _renamed(base: CheckpointFiles, modules: Iterable[str]) -> tuple[_Known, list[str]]:
    """Return what a file that has names of its own holds of modules, by the model's names; and what it has not.

    What it calls otherwise than anybody here knows is in neither: peft tells it when it merges.
    """
    single = base.format.single_file
    stems = {} if single is None else single.tensor_stems(base, modules)
    tensors = {
        f"{module}.{kind}": base.tensors[f"{stem}.{kind}"]
        for module, stem in stems.items()
        for kind in ("weight", "bias")
        if f"{stem}.{kind}" in base.tensors
    }
    return _Known(tensors, as_loaded=False), [module for module, stem in stems.items() if stem is None]


def adapter_facts(files: CheckpointFiles) -> JsonObject:
    """Return what a certificate records of an adapter: its kind, rank, alpha, scaling, and what it adds to. Bounded.

    ``rank`` and ``alpha`` are those of its configuration, ``ranks`` the smallest and the largest in its file;
    ``scaling`` is by what LoRA's product is multiplied where no pattern says otherwise: alpha / rank, or alpha /
    sqrt(rank) if it is rank-stabilised.
    """
    config = read_adapter_config(files)
    places = [_place(name) for name in files.tensors]
    modules = {place.module for place in places if place.module and PART.match(place.own)}
    targets = sorted({printable(name.rpartition(".")[2])[:_SHOWN] for name in modules})
    saved = sorted(
        {printable(place.module.rpartition(".")[2])[:_SHOWN] for place in places if not PART.match(place.own)}
    )
    rank, alpha = (config.values.get(key) for key in ("target_r" if config.kind == "ADALORA" else "r", "lora_alpha"))
    facts: JsonObject = {
        "type": config.kind,
        "label": config.label,
        "rank": rank,
        "ranks": _ranks(files),
        "alpha": alpha if alpha is not None else config.values.get("alpha"),
        "scaling": _scaling(config),
        "modules": len(modules),
        "targets": targets[:_TARGETS_KEPT],
        "modules_to_save": saved[:_TARGETS_KEPT],
        "parameters": files.parameters,
        "base": config.base_name,
        "peft": version("peft"),
    }
    return {key: value for key, value in facts.items() if value is not None and value != []}


def _scaling(config: AdapterConfig) -> float | None:
    rank, alpha = config.values.get("r"), config.values.get("lora_alpha")
    if config.kind != "LORA" or type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        return None
    return float(alpha / (math.sqrt(rank) if config.values.get("use_rslora") else rank))


def _ranks(files: CheckpointFiles) -> list[int] | None:
    ranks = {
        header.shape[0]
        for name, header in files.tensors.items()
        if ".lora_A." in f"{name}." or ".lora_embedding_A." in f"{name}."
        if header.shape
    }
    return [min(ranks), max(ranks)] if ranks else None


def _require_ranks(config: AdapterConfig, files: CheckpointFiles, where: str) -> None:
    """Make sure that no rank is larger than what the file holds: peft would first make room for it.

    Raises:
        ConfigurationError: one is, or is none.
    """
    largest = max((size for header in files.tensors.values() for size in header.shape), default=0)
    named = [(key, value) for key, value in config.values.items() if key in _RANKS]
    pattern = config.values.get("rank_pattern") or {}
    named += [(f"rank_pattern of {key}", value) for key, value in pattern.items() if not isinstance(value, list)]
    for key, value in named:
        if type(value) is not int or not 0 <= value <= largest:
            raise ConfigurationError(
                f"{where}: {printable(key)[:_SHOWN]} is {printable(repr(value))[:_SHOWN]}, and no tensor in its file "
                f"has more than {largest} rows or columns. Save the adapter again: model.save_pretrained(directory)."
            )


def _of_other_shapes(files: CheckpointFiles, places: Mapping[str, _Place], known: _Known) -> Iterator[str]:
    """Say of every tensor that cannot be added to the baseline's why not, in its order."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, place in places.items():
        shape, own = files.tensors[name].shape, place.own.partition(".")[0]
        if not PART.match(place.own):
            base = known.tensor(f"{place.module}.{place.own}")
            if base is not None and not known.is_shape(base, shape):
                yield f"{place.module}.{place.own} is {list(shape)}, the baseline's {list(base.shape)}"
        elif own in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B") and len(shape) == 2:
            pairs.setdefault(place.module, {})[own[-1]] = shape
    for module, pair in pairs.items():
        base = known.tensor(f"{module}.weight")
        if base is None or len(base.shape) != 2 or pair.keys() != {"A", "B"}:
            continue
        (rank, inputs), (outputs, other) = pair["A"], pair["B"]
        if rank != other or sorted((inputs, outputs)) != sorted(base.shape):
            yield (
                f"its product for {module} is [{outputs}, {other}] x [{rank}, {inputs}], the baseline's matrix "
                f"{list(base.shape)}"
            )


def _is_shared(name: str) -> bool:
    """Tell whether a tensor belongs to no module but to the whole adapter, as the projections of VeRA do."""
    return name.startswith(_WRAPPER) and PART.match(name.removeprefix(_WRAPPER)) is not None


def _place(name: str) -> _Place:
    """Tell a tensor's module from the adapter's own part of its name; the module is empty if it belongs to none."""
    parts = name.removeprefix(_WRAPPER if _is_shared(name) else PREFIX).split(".")
    own = next((i for i, part in enumerate(parts) if PART.match(part)), len(parts) - 1)
    module = [part for part in parts[:own] if part not in _INNER]
    return _Place(".".join(module), ".".join(parts[own:]))


def _sizes(shape: tuple[int, ...]) -> list[int]:
    return sorted(size for size in shape if size != 1)


def _end(name: str) -> str:
    """Return a name from what is counted on, ``layers.0.mlp``; or its last two parts, if nothing is counted in it."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[-2:] if number is None else parts[max(0, number - 1) :])


def _dots(name: str) -> Iterator[int]:
    return (place for place, character in enumerate(name) if character == ".")


def _list(names: Iterable[str], between: str = ", ") -> str:
    return first_of([printable(name)[: 2 * _SHOWN] for name in names], _NAMES_SHOWN, between)
