"""The directories of several sessions: what each says that it is part of, and whether that is one run.

They come from anywhere. What is read here are a few documents of each, within bounds; nothing is believed before it has
been compared, and no link in a directory is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_proofpack import __version__
from pytest_proofpack.common.reading import is_regular
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.check_structure import plan_findings
from pytest_proofpack.plan.pins import Pin, Revisions, Role
from pytest_proofpack.plan.records import Category
from pytest_proofpack.runs.paths import MARKER, REVISIONS, SCENARIOS, TUNED
from pytest_proofpack.runs.resume import MAX_DIFFERENCES, PreviousRun, commits, differences, read_previous_run

_SESSION = ("suite", "tier", "profile", "determinism", "policy_digest")
"""What ``state/run.json`` has to say in every part; versions are compared with this one first."""


@dataclass(frozen=True)
class Part:
    """A directory that holds certificates of a run.

    Attributes:
        directory: the directory, as it was named.
        state: what the sessions that wrote it have left in ``state``.
    """

    directory: Path
    state: PreviousRun

    @property
    def name(self) -> str:
        """How messages call it: by its name, and by the shard that it is."""
        shard = "" if self.state.shard is None else f" (shard {self.state.shard})"
        return f"{self.directory}{shard}"

    def file(self, path: Path) -> Path | None:
        """Return a file of the directory; None if there is none, or only a link."""
        return _own_file(self.directory, path)


def read_part(directory: Path) -> Part:
    """Read what a directory says of its run.

    Raises:
        ConfigurationError: it is none of a run, or none that certifies, or of another version of this package.
    """
    for document in (MARKER, SCENARIOS, TUNED, REVISIONS):
        if _own_file(directory, document) is None:
            raise ConfigurationError(
                f"{directory}: {document} is missing, so it is no run directory. Name those that --proofpack-out was "
                "given for the shards, with all that is in their folder state."
            )
    part = Part(directory, read_previous_run(directory, str(directory)))
    tool = part.state.session["tool"]
    if tool["version"] != __version__:
        raise ConfigurationError(
            printable(
                f"{part.name} was made by version {tool['version']} of pytest-proofpack, and this is {__version__}. "
            )
            + "Assemble with the version that made the certificates."
        )
    if part.state.tunes:
        raise ConfigurationError(f"{part.name} holds tuned parameters, and no certificates.")
    if wrong := plan_findings(part.state.scenarios, str(directory / SCENARIOS)):
        raise ConfigurationError(printable(wrong[0]))
    return part


def one_run(parts: Sequence[Part]) -> PreviousRun:
    """Return the run that all of these are parts of, as one session would have begun it.

    Subjects and models that only some of them have are there as those say.

    Raises:
        ConfigurationError: they are not of one run; names what differs, and between which.
    """
    settled = _settled_entries(parts)
    first, *others = (replace(part.state, scenarios=_with_entries(part.state.scenarios, settled)) for part in parts)
    for part, state in zip(parts[1:], others, strict=True):
        _require_same(parts[0], first, part, state)
    pins = _merged_pins(parts)
    begun = min(part.state.revisions.generated_at for part in parts)
    return PreviousRun(
        session={
            **{name: first.session[name] for name in (*_SESSION, "tool")},
            "started_at": min(part.state.session["started_at"] for part in parts),
            "network_mode": "online" if any(_online(part) for part in parts) else "offline",
            "measured_under": _merged_facts([part.state.session.get("measured_under", {}) for part in parts]),
        },
        scenarios=first.scenarios,
        tuned=first.tuned,
        revisions=replace(first.revisions, generated_at=begun, pins=pins),
    )


def missing_shards(parts: Sequence[Part]) -> str | None:
    """Return in words which shards are not among these; None if none is missing, or they are of different divisions."""
    shards = [part.state.shard for part in parts]
    counts = {shard.partition("/")[2] for shard in shards if shard is not None}
    if None in shards or len(counts) != 1:
        return None
    (count,) = counts
    wanted = [f"{number}/{count}" for number in range(1, int(count) + 1)]
    absent = [shard for shard in wanted if shard not in shards]
    return ", ".join(absent[:MAX_DIFFERENCES]) + (" and more" if len(absent) > MAX_DIFFERENCES else "") or None


def _own_file(directory: Path, path: Path) -> Path | None:
    found = directory / path
    return found if is_regular(found, directory) else None


def _require_same(one: Part, first: PreviousRun, other: Part, second: PreviousRun) -> None:
    """Make sure that two parts are of one run."""
    known = _pins(one).keys() & _pins(other).keys()
    said: list[tuple[str, JsonObject, JsonObject]] = [
        ("", _named(first.session), _named(second.session)),
        ("scenarios", first.scenarios, second.scenarios),
        ("tuned_edit_params", first.tuned, second.tuned),
        ("commits", _commits_of(first.revisions, known), _commits_of(second.revisions, known)),
    ]
    found = [difference for path, before, now in said for difference in differences(before, now, path)]
    if found:
        named = [
            f"{place} is {mine} in the one, {theirs} in the other" for place, mine, theirs in found[:MAX_DIFFERENCES]
        ]
        raise ConfigurationError(printable(f"{one.name} and {other.name} are not of one run: {'; '.join(named)}."))


def _named(session: JsonObject) -> JsonObject:
    return {name: session[name] for name in _SESSION}


def _pins(part: Part) -> dict[tuple[Role, str], Pin]:
    return dict(part.state.revisions.pins)


def _commits_of(revisions: Revisions, known: set[tuple[Role, str]]) -> JsonObject:
    """Return the commits of those sources that both parts know."""
    return commits(replace(revisions, pins={key: pin for key, pin in revisions.pins.items() if key in known}))


def _merged_pins(parts: Sequence[Part]) -> dict[tuple[Role, str], Pin]:
    """Return every pin, each as the part says that learned it first."""
    pins: dict[tuple[Role, str], Pin] = {}
    for part in sorted(parts, key=lambda part: part.state.revisions.generated_at):
        pins = {**_pins(part), **pins}
    return pins


def _merged_facts(said: Sequence[JsonObject]) -> JsonObject:
    """Return what all that say something of a name say of it."""
    names = {name for facts in said for name in facts}
    found = {name: {facts[name] for facts in said if name in facts} for name in sorted(names)}
    return {name: next(iter(values)) for name, values in found.items() if len(values) == 1}


def _online(part: Part) -> bool:
    return bool(part.state.session["network_mode"] == "online")


def _settled_entries(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the entries of edited models as the shards have them that have read their files, by scenario."""
    entries = [entry for part in reversed(parts) for entry in part.state.scenarios["scenarios"]]
    return {entry["id"]: entry for entry in entries if _is_subject(entry) and entry["generation"]["digest"] is not None}


def _with_entries(document: JsonObject, settled: dict[str, Any]) -> JsonObject:
    """Return a scenarios document in which the edited models that its own shard has not read are as others say."""

    def completed(entry: JsonObject) -> JsonObject:
        known = settled.get(entry["id"])
        if known is None or not _is_subject(entry) or entry["generation"]["digest"] is not None:
            return entry
        same = entry["generation"]["model_id"] == known["generation"]["model_id"]
        return known if same else entry

    return {**document, "scenarios": [completed(entry) for entry in document["scenarios"]]}


def _is_subject(entry: JsonObject) -> bool:
    return bool(entry["category"] == Category.BYOE and entry["generation"]["kind"] == "byoe")
