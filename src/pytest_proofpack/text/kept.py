"""Windows that one process has cut, kept in a file for others that would cut the same: no text is loaded again there.

The file holds numbers and says what they were cut from. Whoever reads it takes it for data from anywhere: what is not
what it should be counts as not being there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pytest_proofpack.common.files import FileState, atomic_write
from pytest_proofpack.plan.records import TextSpec, WindowPlan
from pytest_proofpack.text.windows import PreparedText, Tokens, text_facts

_WINDOWS, _COUNTS = "windows", "counts"
_COUNTED = ("documents", "total_tokens", "total_bytes")
"""What ``counts`` holds of the text's facts, in this order."""


def text_key(spec: TextSpec, tokenizer_hash: str, plan: WindowPlan, states: Mapping[Path, FileState]) -> str:
    """Return a hexadecimal SHA-256 over everything that windows depend on.

    Args:
        spec: the text, with its place on this machine.
        tokenizer_hash: see :func:`pytest_proofpack.text.windows.tokenizer_fingerprint`.
        plan: how it is to be cut.
        states: of the files that it is read from.
    """
    files = sorted((str(file), state) for file, state in states.items())
    parts = [vars(spec), tokenizer_hash, vars(plan), files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def keep_text(path: Path, key: str, text: PreparedText) -> None:
    """Write the windows of a text and what was counted in it.

    Args:
        path: the file.
        key: of what they were cut from, see :func:`text_key`.
        text: the text.

    Raises:
        StorageError: it cannot be written.
    """
    facts = text.facts
    counts = np.array([getattr(facts, name) for name in _COUNTED], dtype=np.int64)
    digest = _digest(key, facts.text_sha256, counts, text.windows)
    metadata = {"key": key, "text_sha256": facts.text_sha256, "sha256": digest}
    atomic_write(path, save({_WINDOWS: text.windows, _COUNTS: counts}, metadata))


def kept_text(path: Path, key: str, spec: TextSpec, plan: WindowPlan) -> PreparedText | None:
    """Return what :func:`keep_text` wrote, as ``prepare_text`` would.

    It is read into memory of this process, so that nobody who writes to the file changes it afterwards.

    Args:
        path: the file.
        key: of what windows are to be cut from.
        spec: the text.
        plan: how it is to be cut.

    Returns:
        The text; None if the file is missing, of something else, or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return _read(file, key, spec, plan)
    except (OSError, SafetensorError):
        return None


def _read(file: Any, key: str, spec: TextSpec, plan: WindowPlan) -> PreparedText | None:
    told = file.metadata() or {}
    if told.get("key") != key or not _has_form(file, plan):
        return None
    windows, counts, text_sha256 = file.get_tensor(_WINDOWS), file.get_tensor(_COUNTS), told.get("text_sha256", "")
    if told.get("sha256") != _digest(key, text_sha256, counts, windows):
        return None
    counted = dict(zip(_COUNTED, counts.tolist(), strict=True))
    if counted["documents"] < 1 or counted["total_tokens"] < windows.size:
        return None
    return PreparedText(text_facts(spec, windows, text_sha256=text_sha256, **counted), windows, plan)


def _has_form(file: Any, plan: WindowPlan) -> bool:
    """Tell whether a file holds 64-bit integers as they should be shaped, and windows enough for a draw."""
    windows, counts = file.get_slice(_WINDOWS), file.get_slice(_COUNTS)
    shape = windows.get_shape()
    return (
        {windows.get_dtype(), counts.get_dtype()} == {"I64"}
        and counts.get_shape() == [len(_COUNTED)]
        and shape[1:] == [plan.seq_len]
        and shape[0] >= plan.preview + plan.final
    )


def _digest(key: str, text_sha256: str, counts: NDArray[np.int64], windows: Tokens) -> str:
    """Return a hexadecimal SHA-256 of all that a file holds, so that damage shows."""
    digest = hashlib.sha256(f"{key} {text_sha256} ".encode())
    digest.update(counts.data)
    digest.update(windows.data)
    return digest.hexdigest()
