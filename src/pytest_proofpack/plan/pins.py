"""Pinned revisions: which commit of every model and data set a run reads, as ``state/model_revisions.json`` has it.

A branch moves, a commit does not. A run with network resolves every revision once and writes the commits down; later
runs read them back and need no network for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pytest_proofpack.common.schemas import require_schema
from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.common.words import shown
from pytest_proofpack.errors import ConfigurationError, FormatError

_MAX_BYTES = 16 * 1024 * 1024
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OPTION = "--proofpack-revisions"


class Role(StrEnum):
    """What a repository is to a run; the values are the document's keys."""

    MODEL = "models"
    SUBJECT = "subjects"
    DATASET = "datasets"


@dataclass(frozen=True)
class Pin:
    """What is known of one repository.

    Attributes:
        revision: the commit, 40 hexadecimal digits; None for a local directory.
        resolved_at: when the hub said so, UTC, ``2026-01-31T12:00:00Z``; None if the commit was given by hand.
        gated: whether its files are only given to people who were granted access; None if nobody asked the hub.
        private: likewise.
        license: as the hub has it, or else the suite; None if it is not known.
    """

    revision: str | None
    resolved_at: str | None = None
    gated: bool | None = None
    private: bool | None = None
    license: str | None = None


@dataclass(frozen=True)
class Revisions:
    """The pins of a run.

    Attributes:
        suite: name of the suite.
        generated_at: UTC.
        model_list: ids of the suite's models, in its order.
        pins: by role and key; the key is the id, or ``id@revision`` for a subject whose id is not the only such one.
    """

    suite: str
    generated_at: str
    model_list: tuple[str, ...]
    pins: Mapping[tuple[Role, str], Pin] = field(default_factory=dict)

    def document(self) -> JsonObject:
        """Return the document; ``subjects`` is left out where there are none."""
        roles = {role: {key: asdict(pin) for (of, key), pin in self.pins.items() if of is role} for role in Role}
        return {
            "generated_at": self.generated_at,
            "suite": self.suite,
            "model_list": list(self.model_list),
            **{role.value: pins for role, pins in roles.items() if pins or role is not Role.SUBJECT},
        }

    @classmethod
    def from_document(cls, document: JsonObject) -> Revisions:
        """Rebuild the pins from :meth:`document`; keys that are not ours are left out."""
        known = Pin.__dataclass_fields__
        return cls(
            suite=document.get("suite", ""),
            generated_at=document.get("generated_at", ""),
            model_list=tuple(document.get("model_list", ())),
            pins={
                (role, key): Pin(**{name: value for name, value in entry.items() if name in known})
                for role in Role
                for key, entry in document.get(role.value, {}).items()
            },
        )


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is the full hash of a commit: 40 hexadecimal digits in lower case."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def now() -> str:
    """Return the time in the form of the document, UTC."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def read_revisions(path: Path) -> Revisions:
    """Read a revisions document that a user names.

    Raises:
        ConfigurationError: it cannot be read, or is none; names the file, the key and what was expected.
    """
    try:
        document = read_json(path, shown(path), max_bytes=_MAX_BYTES)
    except FormatError as error:
        raise ConfigurationError(
            f"{_OPTION}: {error}. Name the state/model_revisions.json of an earlier run with --proofpack-net=1."
        ) from error
    require_schema("model_revisions", document, f"{_OPTION}: {shown(path)}")
    return Revisions.from_document(document)
