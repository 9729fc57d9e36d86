"""Weights in several files: each tensor in one of them, and where the index says.

transformers reads every tensor of every file that the index names, so that of two of a name the last one wins, and
never looks up which file a tensor should be in. Others fetch each tensor from the file that the index gives for it. A
model that is two models, depending on who loads it, is refused. An index that lists too much or too little is told:
tools that drop a tied head, or add a tensor, write such.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pytest_proofpack.common.words import first_of, printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.safetensors_files import INDEX, TensorHeader, read_weight_map

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_SHOWN = 3
_LENGTH = 120


def each_once(headers: Mapping[Path, Mapping[str, TensorHeader]]) -> Mapping[str, Path]:
    """Return the file of each tensor.

    Args:
        headers: what each file says of its tensors, by name.

    Raises:
        ConfigurationError: a tensor stands in two files; names both.
    """
    places: dict[str, Path] = {}
    for file, tensors in headers.items():
        for name in tensors:
            if name in places:
                raise ConfigurationError(
                    f"{printable(str(file))}: holds {_shown(name)}, which {_shown(places[name].name)} holds as well. "
                    "Which of the two is loaded depends on who loads them; take one out, or save the model again."
                )
            places[name] = file
    return places


def require_true_index(files: CheckpointFiles) -> None:
    """Make sure that no tensor is in another file than the index says.

    Raises:
        ConfigurationError: one is; names it, and both files.
    """
    for name, said in _index(files).items():
        if name in files.places and files.places[name] != files.path / said:
            raise ConfigurationError(
                f"{files.path / INDEX}: says that {_shown(name)} is in {_shown(said)}, but it is in "
                f"{_shown(files.places[name].name)}. Whoever goes by the index loads something else; save the model "
                "again."
            )


def require_digested(files: CheckpointFiles) -> None:
    """Make sure that the digest of the directory covers the weights: it follows links to files, and none to folders.

    Raises:
        ConfigurationError: it does not; names the file.
    """
    for file in files.weights:
        name = PurePosixPath(file.relative_to(files.path).as_posix())
        if name not in files.states:
            raise ConfigurationError(
                f"{printable(str(file))}: is not among the files that the model's digest is made of: it lies behind a "
                "link to a folder, or in one that is no part of a model. Put it beside config.json."
            )


def index_warnings(files: CheckpointFiles) -> tuple[str, ...]:
    """Return what an index leaves out of the tensors that are there and were loaded, and what it adds."""
    said = _index(files)
    if not said:
        return ()
    found = []
    if left_out := sorted(files.places.keys() - said.keys()):
        found.append(
            f"{INDEX} leaves out tensors that its files hold, and that were loaded: {_names(left_out)}. Who goes by "
            "the index loads the model without them."
        )
    if absent := sorted(said.keys() - files.places.keys()):
        found.append(f"{INDEX} lists tensors that none of its files holds: {_names(absent)}.")
    return tuple(found)


def _index(files: CheckpointFiles) -> Mapping[str, str]:
    """Return the file of each tensor as the index of the loaded files says; nothing if it is about other files."""
    if not (files.path / INDEX).is_file() or not files.format.in_safetensors:
        return {}
    try:
        said = read_weight_map(files.path / INDEX)
    except ConfigurationError:
        return {}  # model.safetensors is there, else it had been refused already
    return said if {files.path / name for name in said.values()} == set(files.weights) else {}


def _names(names: list[str]) -> str:
    return first_of([_shown(name) for name in names], _SHOWN)


def _shown(name: str) -> str:
    return printable(name)[:_LENGTH]
