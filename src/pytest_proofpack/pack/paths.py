"""Paths in a pack: which are unsafe, and which some file system would take for another."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator

from pytest_proofpack.common.budgets import BUDGETS

_PLAIN = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}/){0,9}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
"""Paths that are neither unsafe nor too long; nearly all that there are."""


def path_findings(paths: Iterable[str]) -> list[str]:
    """Name every path that is unsafe, and every pair that some file system would take for one file.

    ``/x`` and ``a/../b`` lead outside; control characters and backslashes mean different things in different places;
    ``A`` and ``a``, or two Unicode spellings of one name, are one file on Windows and macOS.
    """
    findings = []
    seen: dict[str, str] = {}
    known: set[str] = set()
    for path in sorted(paths):
        plain = _PLAIN.fullmatch(path) is not None
        if not plain and (problem := _problem(path)):
            findings.append(f"{path!a}: {problem}")
            continue
        for prefix in _prefixes(path):
            if prefix in known:
                break  # and with it every folder above it
            known.add(prefix)
            twin = seen.setdefault(prefix.lower() if plain else _folded(prefix), prefix)
            if twin != prefix:
                findings.append(f"{prefix!a}: has a twin, {twin!a}, that differs in case or Unicode spelling only")
    return findings


def _folded(path: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _prefixes(path: str) -> Iterator[str]:
    """Yield ``a/b/c``, ``a/b``, ``a`` of ``a/b/c``."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def _problem(path: str) -> str | None:
    if path.startswith("/") or (len(path) > 1 and path[1] == ":"):
        return "an absolute path"
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        return "leads outside of the pack, or is written in a roundabout way"
    if "\\" in path or not path.isprintable():
        return "holds a backslash or a character that cannot be printed"
    too_long = len(os.fsencode(path)) > BUDGETS.path_bytes or len(parts) > BUDGETS.folder_depth + 1
    if too_long or any(len(os.fsencode(part)) > BUDGETS.name_bytes for part in parts):
        return "too long or too deep"
    return None
