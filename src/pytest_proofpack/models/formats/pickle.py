"""Pickled weights (``*.bin``, ``*.pt``): loading one runs code of whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def pickles(names: Iterable[str]) -> list[str]:
    """Return those of the names that are pickled weights'."""
    return [name for name in names if name.endswith(_SUFFIXES)]


def _recognises(files: CheckpointFiles) -> bool:
    others = files.dangling or any(".safetensors" in name for name in files.names)
    return bool(pickles(files.names)) and not others


def _refusal(files: CheckpointFiles) -> str:
    return (
        f"has only pickled weights ({', '.join(pickles(files.names)[:3])}), which can run code when loaded and are "
        "refused; convert them where you trust them: model.save_pretrained(directory)."
    )


PICKLE = CheckpointFormat("pickle", recognises=_recognises, refuses=_refusal)
