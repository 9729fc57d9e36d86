"""The tuned-parameters file: which parameters the clean edits of a model have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_proofpack.common.schemas import require_schema
from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.common.words import shown
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.edit_kinds import EDITS, ENTRY_KEYS

_MAX_FINDINGS = 10


def read_tuned(path: Path) -> JsonObject:
    """Read and check a user's tuned-parameters file.

    Raises:
        ConfigurationError: it cannot be read, does not fit its schema, or names an unknown edit, a parameter that the
            edit does not have, or a value that it does not take. The message names the file and the keys.
    """
    try:
        document = read_json(path, shown(path))
    except FormatError as error:
        raise ConfigurationError(
            f"tuned-parameters file {error}. Name a file in the format tuned_edit_params_v1 with "
            "--proofpack-tuned-edit-params."
        ) from error
    require_schema("tuned_edit_params", document, shown(path))
    findings = list(_findings(document))
    if findings:
        first = "; ".join(findings[:_MAX_FINDINGS])
        raise ConfigurationError(f"{shown(path)} is not a usable tuned edit params file: {first}")
    return document


def with_defaults(tuned: JsonObject) -> JsonObject:
    """Return a tuned-parameters document with the clean parameters that edits themselves propose as its defaults.

    For the packaged document: whoever names a file of his own means what stands there.
    """
    proposed = {name: dict(kind.clean) for name, kind in EDITS.items() if kind.clean is not None}
    return {**tuned, "defaults": proposed | tuned.get("defaults", {})}


def _findings(document: JsonObject) -> Iterator[str]:
    groups = {f"models.{model}": entries for model, entries in document["models"].items()}
    for key, entries in {**groups, "defaults": document.get("defaults", {})}.items():
        for name, entry in entries.items():
            yield from (f"{key}.{name}{finding}" for finding in _entry_findings(name, entry))


def _entry_findings(name: str, entry: Mapping[str, object]) -> Iterator[str]:
    kind = EDITS.get(name)
    if kind is None or not kind.scoped:
        known = [own.name for own in EDITS.values() if own.scoped]
        yield f": the edit {name!r} is unknown, or takes no parameters; expected one of {', '.join(known)}"
        return
    rules = {parameter.name: parameter for parameter in kind.parameters}
    for key, value in entry.items():
        if key in rules and not rules[key].fits(value):
            yield f".{key}: {value!r} is not {rules[key].expects}"
        elif key not in rules and key not in ENTRY_KEYS:
            yield f".{key}: {name} has no such parameter; it takes {', '.join(rules) or 'none'}"
