"""The windows of text that a session's controller has cut, handed to its workers in the run directory.

They lie there while the session is at work and no longer, and only its user can read them, for they are the text. A
worker that does not find them, or finds others than it would cut, cuts its own.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.errors import StorageError
from pytest_proofpack.plan.records import ModelSpec, TextSpec, WindowPlan
from pytest_proofpack.runs.disk import has_room_beside
from pytest_proofpack.runs.paths import TEXTS
from pytest_proofpack.runs.run import Run
from pytest_proofpack.text.kept import keep_text, kept_text
from pytest_proofpack.text.windows import PreparedText

if TYPE_CHECKING:
    from pytest_proofpack.engine.prepared import Prepared


def share_text(run: Run, prepared: Prepared) -> None:
    """Leave the windows of a model's text where workers of the run find them, if the disk has room for that too."""
    if not has_room_beside(run, prepared.text.windows.nbytes):
        return
    path = _file(run, prepared.spec)
    with contextlib.suppress(OSError, StorageError):  # workers cut their own
        path.parent.mkdir(mode=0o700, exist_ok=True)
        keep_text(path, prepared.text_key, prepared.text)


def shared_text(run: Run, model: ModelSpec, key: str, text: TextSpec, plan: WindowPlan) -> PreparedText | None:
    """Return the windows that this session's controller has cut, if they are those of ``key``; None without them."""
    return kept_text(_file(run, model), key, text, plan) if model.id in run.suite.folders else None


def forget_texts(run: Run) -> None:
    """Remove what the controller of this session, or of one that was killed, has left for its workers."""
    shutil.rmtree(run.out / TEXTS, ignore_errors=True)


def _file(run: Run, model: ModelSpec) -> Path:
    return run.out / TEXTS / f"{run.suite.folders[model.id]}.safetensors"
