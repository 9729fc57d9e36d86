"""What is a model on a disk: a directory with a configuration, an adapter or a GGUF file in it, or such a file alone.

Only names are looked at.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pytest_proofpack.common.words import likeliest

_TOLD_BY = ("config.json", "adapter_config.json")
SINGLE_FILE = ".gguf"
"""How the name of a file ends that may hold all of a model."""


def is_single_file(path: Path) -> bool:
    """Tell whether a path is of a file that may hold all of a model."""
    return path.suffix.lower() == SINGLE_FILE and path.is_file()


def models_at(path: Path) -> list[Path]:
    """Return the models that a path stands for: itself, or those that lie directly in it, sorted.

    A directory with one GGUF file is a model, unless models in directories of their own lie beside that. What is no
    directory is returned as it is, whether it is there or not.
    """
    if not path.is_dir() or any((path / name).exists() for name in _TOLD_BY):
        return [path]
    files = [child for child in path.iterdir() if is_single_file(child)]
    folders = [child for child in path.iterdir() if child.is_dir() and _holds_model(child)]
    return [path] if len(files) == 1 and not folders else sorted([*files, *folders])


def misnamed(text: str) -> str | None:
    """Say what is wrong with a name that reads like a path of this machine, and is none of a model.

    Returns:
        A few words; None where the name may as well be an id of the hub.
    """
    path = Path(text)
    if path.is_file():
        return f"is a file: name the directory that holds config.json and the weights, here {path.parent}"
    if path.is_dir():
        return "is a directory here, which has no revisions: leave the one after @ out"
    if len(path.parts) < 2 or not Path(path.parts[0]).is_dir():
        return None
    there = next(parent for parent in path.parents if parent.is_dir())
    name = path.parts[len(there.parts)]
    siblings: list[str] = []
    with suppress(OSError):  # not ours to list: nothing is proposed
        siblings = [child.name for child in there.iterdir() if child.is_dir()]
    likely = likeliest(name, siblings)
    guess = f"; perhaps {Path(there, likely, *path.parts[len(there.parts) + 1 :])} is meant" if likely else ""
    return f"there is no such directory in {there}{guess}"


def left_out_at(path: Path) -> list[Path]:
    """Return the directories in a directory of several models that hold none, sorted; hidden ones are left aside."""
    if models_at(path) == [path]:
        return []
    folders = (child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    return sorted(folder for folder in folders if not _holds_model(folder))


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOLD_BY) or any(map(is_single_file, folder.iterdir()))
