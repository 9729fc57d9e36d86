"""What a ``config.json`` says twice, and not the same: transformers takes one of the two, and others the other.

Rotary embeddings moved into ``rope_parameters`` in version 5 of transformers, and ``torch_dtype`` became ``dtype``.
Older files hold the old keys, and some hold both. transformers takes ``rope_scaling`` before ``rope_parameters``, and
what stands in either before what stands at the top.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.common.words import first_of, printable
from pytest_proofpack.guards.facts import canonical
from pytest_proofpack.guards.structure import SAID_TWICE

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_SCALING, _PARAMETERS = "rope_scaling", "rope_parameters"
_TYPE = {"type": "rope_type"}
_MOVED: Mapping[str, tuple[str, bool]] = {
    "rope_theta": ("rope_theta", False),
    "partial_rotary_factor": ("partial_rotary_factor", False),
    "rope_local_base_freq": ("rope_theta", True),
}
"""By a key at the top, the one that took its place, and whether only where layers have parameters by their kind."""
_LENGTH = 60
_SHOWN = 4


def said_beside(files: CheckpointFiles) -> JsonObject:
    """Return what ``config.json`` says of rotary embeddings beside what is taken of it, where the two differ."""
    config = _text(files)
    scaling, parameters = _mapping(config.get(_SCALING)), _mapping(config.get(_PARAMETERS))
    found: JsonObject = {}
    if _differ(scaling, parameters):
        found[_PARAMETERS] = parameters
    taken = scaling or parameters
    nested = [own for own in taken.values() if isinstance(own, dict)]
    for key, (successor, by_kind) in _MOVED.items():
        values = [own[successor] for own in (*([] if by_kind else [taken]), *nested) if _is_number(own.get(successor))]
        if values and _is_number(config.get(key)) and config[key] not in values:
            found[key] = config[key]
    return found


def compared_config(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], beside: JsonObject, beside_ours: JsonObject
) -> JsonObject:
    """Return a subject's configuration as it is compared with its baseline's.

    A key that the class knows nothing of, and that is false, says what a file without it says: tools write such.

    Args:
        ours: the baseline's.
        theirs: the subject's.
        beside: what the subject's file says beside that; see :func:`said_beside`.
        beside_ours: what the baseline's does, which is no difference.
    """
    compared = dict(theirs)
    if ours.get("model_type") == theirs.get("model_type"):
        compared = {key: value for key, value in theirs.items() if key in ours or value is not False}
        compared |= {key: False for key, value in ours.items() if value is False and key not in theirs}
    for key in (key for key in beside if key not in beside_ours or beside[key] != beside_ours[key]):
        compared[f"{key}{SAID_TWICE}" if key in theirs else key] = beside[key]
    return compared


def twice_warnings(files: CheckpointFiles) -> tuple[str, ...]:
    """Return the warning that ``config.json`` contradicts itself; nothing if it does not."""
    said = {**said_beside(files), **_other_dtype(files)}
    if not said:
        return ()
    shown = [printable(f"{key} {compact_json(canonical(value))}")[:_LENGTH] for key, value in said.items()]
    return (
        f"its config.json contradicts itself: it also says {first_of(shown, _SHOWN)}, which transformers did not take. "
        "Others may; take out what is not meant.",
    )


def _text(files: CheckpointFiles) -> JsonObject:
    text = files.claims.get("text_config")
    return text if isinstance(text, dict) else files.claims


def _mapping(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _differ(ours: JsonObject, theirs: JsonObject) -> bool:
    """Tell whether two mappings say something else under the same key; null says nothing."""
    first, second = ({_TYPE.get(key, key): value for key, value in canonical(own).items()} for own in (ours, theirs))
    return any(first[key] != second[key] for key in first.keys() & second.keys())


def _other_dtype(files: CheckpointFiles) -> JsonObject:
    """Return ``torch_dtype`` where ``dtype`` is another one."""
    old, new = (files.claims.get(key) for key in ("torch_dtype", "dtype"))
    differs = isinstance(old, str) and isinstance(new, str) and _plain(old) != _plain(new)
    return {"torch_dtype": old} if differs else {}


def _plain(dtype: str) -> str:
    return dtype.removeprefix("torch.")
