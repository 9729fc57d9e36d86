"""Changing one place of a JSON document, the way a forger would."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject

Path = tuple[str | int, ...]


def leaves(tree: object, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value that holds no other values; empty lists and objects are such values too."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    empty = True
    for key, value in children:
        empty = False
        yield from leaves(value, (*path, key))
    if empty:
        yield path


def at(document: Any, path: Path) -> Any:
    """Return what stands at ``path``."""
    for key in path:
        document = document[key]
    return document


def replaced(document: JsonObject, path: Path, value: object) -> JsonObject:
    """Return a copy with another value at ``path``; a new last key is added."""
    changed, place = _copied(document, path[:-1])
    place[path[-1]] = value
    return changed


def removed(document: JsonObject, path: Path) -> JsonObject:
    """Return a copy without the key or the element at ``path``."""
    changed, place = _copied(document, path[:-1])
    del place[path[-1]]
    return changed


def _copied(document: JsonObject, path: Path) -> tuple[JsonObject, Any]:
    """Return a copy, and what stands at ``path`` in it; it shares with the original all that does not lead there."""
    place: Any = copy.copy(document)
    changed: JsonObject = place
    for key in path:
        place[key] = copy.copy(place[key])
        place = place[key]
    return changed, place


def dotted(path: Path) -> str:
    """Write a path as findings name it: ``dataset.windows.stats`` or ``ci[0]``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def other(value: object) -> object:
    """Return another value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value[:-1] + ("1" if value.endswith("0") else "0")
        case None:
            return "something"
        case list():
            return ["something"]
        case _:
            return {"something": 1}
