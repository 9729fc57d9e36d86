"""Several complete sets of weights in one directory: which of them is meant, only its owner knows.

transformers takes the first that it looks for, and says nothing: an older ``model.safetensors`` beside the shards of a
newer training, weights in their author's own layout beside those that were converted. On the hub it is the same order,
at a commit that is pinned, and only what it finds is fetched; so of a snapshot only those files count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.common.words import first_of, printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.safetensors_files import WEIGHTS, indexed_shards, read_header, weight_files
from pytest_proofpack.plan.places import SINGLE_FILE

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_INDEX = ".safetensors.index.json"
_VARIANT = re.compile(r"model\.[^.]+\.safetensors")
_NUMBERED = re.compile(r"(?P<stem>.*)-\d+-of-(?P<count>\d+)\.safetensors")
_AUTHORS_OWN = re.compile(r"consolidated\b.*\.(safetensors|pth|pt|bin)")
_PICKLED = re.compile(r"pytorch_model\b.*\.bin")
_OPTIMIZER = re.compile(r"(optimizer|scheduler|random_states)\b.*\.safetensors")
_SAFETENSORS = ".safetensors"
_NAMES_SHOWN = 3
_SETS_SHOWN = 8


def require_one_set(files: CheckpointFiles) -> None:
    """Make sure that a directory holds one set of weights.

    Pickled weights (``pytorch_model*.bin``) count if they are newer than the safetensors: then somebody saved the model
    again in the other form. Older ones are what the safetensors were made of. A safetensors file of any name counts if
    it holds a tensor of a name that is loaded: some take every file that there is. Leftovers of sets that are not whole
    and an optimizer's state don't count; of whatever else is there, :func:`warnings_beside` tells.

    Raises:
        ConfigurationError: there are several; names them.
    """
    if files.format.weights is not weight_files:
        return  # a format from outside has a choice of its own
    sets = dict(_safetensors(files)) | dict(_others(files))
    sets |= {name: frozenset({name}) for name in _beside(files) if _shares_names(files, name)}
    if len(sets) > 1:
        shown = [_described(name, members) for name, members in sets.items()]
        listed = first_of(shown, _SETS_SHOWN, between="; ")
        raise ConfigurationError(
            f"{files.path}: holds {len(sets)} sets of weights: {listed}. Nobody can tell which one is meant; keep that "
            "one, and move the others elsewhere."
        )


def warnings_beside(files: CheckpointFiles) -> tuple[str, ...]:
    """Return the warning that there are safetensors which were not loaded; nothing if there are none."""
    if files.format.weights is not weight_files or not (names := _unread(files)):
        return ()
    shown = first_of([printable(name) for name in names], _NAMES_SHOWN)
    return (
        f"holds safetensors beside the weights, which were not loaded: {shown}. There are tools that load every such "
        "file of a directory; move them elsewhere if they are no part of the model.",
    )


def _unread(files: CheckpointFiles) -> list[str]:
    """Return the safetensors at the top that are not loaded, sorted."""
    return sorted(
        name for name, file in _top(files).items() if name.endswith(_SAFETENSORS) and file not in files.weights
    )


def _beside(files: CheckpointFiles) -> list[str]:
    """Return those whose names tell nothing of what they are."""
    told = frozenset[str]().union(*(members for _, members in _safetensors(files)))
    known = (_NUMBERED, _AUTHORS_OWN, _OPTIMIZER)
    return [
        name for name in _unread(files) if name not in told and not any(pattern.fullmatch(name) for pattern in known)
    ]


def _shares_names(files: CheckpointFiles, name: str) -> bool:
    """Tell whether a file holds a tensor of a name that is loaded; one that can't be read holds none."""
    try:
        return not files.stored.keys().isdisjoint(read_header(files.path / name))
    except ConfigurationError:
        return False


def _safetensors(files: CheckpointFiles) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield name and members of every set that is wholly there: a file, those of an index, those that are numbered."""
    names = _top(files)
    known: set[frozenset[str]] = set()
    indexes = [name for name in names if name.endswith(_INDEX)]
    candidates = {WEIGHTS: frozenset({WEIGHTS}), **{index: _members(files.path / index) for index in indexes}}
    candidates |= {name: frozenset({name}) for name in names if _VARIANT.fullmatch(name)}
    for name, members in candidates.items():
        if members and members <= names.keys() and members not in known:
            known.add(members)
            yield name, members
    covered = frozenset[str]().union(*known)
    numbered: dict[tuple[str, str], set[str]] = {}
    for name in names.keys() - covered:
        if (match := _NUMBERED.fullmatch(name)) and not _AUTHORS_OWN.fullmatch(name):
            numbered.setdefault((match["stem"], match["count"]), set()).add(name)
    for (stem, count), shards in sorted(numbered.items()):
        if len(shards) == int(count):
            yield f"{stem}-*-of-{count}.safetensors", frozenset(shards)


def _others(files: CheckpointFiles) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield weights in their author's own layout, pickled ones that are newer than those that are loaded, and GGUF."""
    names = _top(files)
    indexed = frozenset[str]().union(*(members for _, members in _safetensors(files)))
    own = frozenset(name for name in names if _AUTHORS_OWN.fullmatch(name)) - indexed
    if own:
        yield "consolidated.*", own
    loaded = max(file.stat().st_mtime_ns for file in files.weights)
    newer = frozenset(
        name for name, file in names.items() if _PICKLED.fullmatch(name) and file.stat().st_mtime_ns > loaded
    )
    if newer:
        yield "pytorch_model*.bin, newer", newer
    for name in names:
        if name.lower().endswith(SINGLE_FILE):
            yield name, frozenset({name})


def _top(files: CheckpointFiles) -> Mapping[str, Path]:
    """Return the files at the top of a directory, or those of them that a model of the hub consists of."""
    return {file.name: files.path / file for file in files.content if len(file.parts) == 1}


def _members(index: Path) -> frozenset[str]:
    """Return the files that an index names; none if it can't be read, which matters only if it is the one to load."""
    try:
        return frozenset(indexed_shards(index))
    except ConfigurationError:
        return frozenset()


def _described(name: str, members: frozenset[str]) -> str:
    if members == {name}:
        return name
    shown = ", ".join(sorted(members)[:_NAMES_SHOWN])
    return f"{name} ({shown}{', ...' if len(members) > _NAMES_SHOWN else ''})"
