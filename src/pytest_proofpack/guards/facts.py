"""Facts of two models compared: one form of what configurations say, so that comparing and taking digests agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_proofpack.common.strict_json import compact_json


def canonical(value: Any) -> Any:
    """Return the one form of a fact of a configuration: two that say the same have the same, and the same digest.

    A key that is null is as good as absent, at every depth. A whole number is one whatever its JSON type (1 and 1.0),
    but never a truth value; one that canonical JSON has no room for stands as its digits.
    """
    match value:
        case bool():
            return value
        case float() if value.is_integer():
            return canonical(int(value))
        case int():
            return value if abs(value) < 2**53 else {"integer": str(value)}
        case Mapping():
            return {key: canonical(item) for key, item in value.items() if item is not None}
        case list() | tuple():
            return [canonical(item) for item in value]
        case _:
            return value


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the keys under which two configurations say something else, sorted; see :func:`canonical`."""
    forms = canonical(ours), canonical(theirs)
    # Compared as text, because Python holds True for 1.
    texts = [{key: compact_json(value) for key, value in form.items()} for form in forms]
    return changed_keys(*texts)


def changed_keys(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """Return the keys under which two mappings hold something else, sorted; an absent one holds None."""
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
