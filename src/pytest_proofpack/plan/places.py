"""What is a model on a disk: a directory with a configuration, an adapter or a GGUF file in it, or such a file alone.

Only names are looked at.
"""

from __future__ import annotations

from pathlib import Path

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


def left_out_at(path: Path) -> list[Path]:
    """Return the directories in a directory of several models that hold none, sorted; hidden ones are left aside."""
    if models_at(path) == [path]:
        return []
    folders = (child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    return sorted(folder for folder in folders if not _holds_model(folder))


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOLD_BY) or any(map(is_single_file, folder.iterdir()))
