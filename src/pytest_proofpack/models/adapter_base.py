"""Whether the baseline is the model that an adapter says it was trained on, as far as that can be told here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.common.words import printable
from pytest_proofpack.models.adapter_config import AdapterConfig, read_adapter_config

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.plan.records import ModelSpec

_SHOWN = 120
_WEIGHTS = (".gguf", ".safetensors", ".bin")


def base_warnings(files: CheckpointFiles, baseline: ModelSpec, base: CheckpointFiles) -> tuple[str, ...]:
    """Return what a user should know of the model that an adapter names as its own.

    An adapter is certified on the baseline whatever it names: people publish them under the id of a copy, a quantized
    twin, a folder of theirs. But who reads the certificate has to know.

    Args:
        files: the adapter's.
        baseline: the baseline.
        base: its files.
    """
    config = read_adapter_config(files)
    if config.base is None:
        return ("the adapter does not say which model it was trained on.",)
    named = f"the adapter was trained on {config.base_name}"
    place = Path(config.base).expanduser()
    if config.base.lower() == baseline.id.lower() and baseline.revision is not None:
        return _of_another_revision(config, baseline, named)
    if _is_directory(place):
        if base.format.single_file is not None and _holds_more(place, base):
            return (
                f"{named}, a directory that holds other models besides {base.names[0]}: which, can't be told here.",
            )
        if place.samefile(base.path) or _holds_the_same(place, base):
            return ()
        return (f"{named}, whose files in that directory are not the baseline's.",)
    if _is_id(config.base) and baseline.revision is not None:
        return (f"{named}, and the baseline is {baseline.id}: another model, as far as their ids tell.",)
    return (f"{named}; whether the baseline, {baseline.id}, is that model can't be told here.",)


def _of_another_revision(config: AdapterConfig, baseline: ModelSpec, named: str) -> tuple[str, ...]:
    if config.revision in (None, "main", baseline.revision):
        return ()
    revision = printable(config.revision or "")[:_SHOWN]
    return (f"{named} at {revision}, and the baseline is that model at {baseline.revision}.",)


def _is_directory(place: Path) -> bool:
    try:
        return place.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _is_id(name: str) -> bool:
    return name.count("/") <= 1 and not name.startswith((".", "~", "/")) and os.sep * 2 not in name


def _holds_more(place: Path, base: CheckpointFiles) -> bool:
    """Tell whether a directory holds weights besides the one file that a baseline consists of."""
    try:
        names = {entry.name for entry in place.iterdir()}
    except OSError:
        return False
    weights = {file.name for file in base.weights}
    return weights <= names and any(name.endswith(_WEIGHTS) for name in names - weights)


def _holds_the_same(place: Path, base: CheckpointFiles) -> bool:
    """Tell whether a directory holds the baseline's files, bytes and all.

    It is one that an adapter names, so no more of it is read than the baseline has, and nothing but plain files.
    """
    from pytest_proofpack.common.files import sha256_file

    pairs = [(place / file, base.path / file) for file in base.content]
    try:
        if not all(theirs.is_file() and theirs.stat().st_size == ours.stat().st_size for theirs, ours in pairs):
            return False
        return all(sha256_file(theirs) == sha256_file(ours) for theirs, ours in pairs)
    except OSError:
        return False
