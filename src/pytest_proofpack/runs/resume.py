"""Going on with a run: whether a directory holds the same run, and which of its certificates still hold.

What lies there is read as if a stranger had written it. A certificate is reused if what it says of how it was made is
what this session would say, and if every number in it follows from its evidence; any other is made again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pytest_proofpack.certificate.explain import FAILED_GATES, failed_gates
from pytest_proofpack.certificate.presets import NullRatios
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.reading import UnfitFileError, read_head
from pytest_proofpack.common.schemas import require_schema
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json, read_json
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.pins import Revisions
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.runs.conditions import Conditions, why_not
from pytest_proofpack.runs.paths import (
    BASELINE,
    MARKER,
    NULL_RATIOS,
    REVISIONS,
    SCENARIOS,
    STATE,
    TUNED,
    WINDOWS,
    certificate_path,
)
from pytest_proofpack.runs.run import Run

OPTION = "--proofpack-resume"

_MAX_STATE_BYTES = 16 * 1024 * 1024
_HEAD = 1 << 20
"""Where in such a file its model's digest stands: in the header of one kind, anywhere in the other, which is small."""
MAX_DIFFERENCES = 5
"""So many differences between two runs are named."""
_SHOWN = 80
_UNKNOWN = object()
"""Stands for what is not recorded."""
_EXCERPT = ("meta", "scenario", "dataset", "primary_metric", "validation", "outcome", "certificate_digest", "volatile")


@dataclass(frozen=True)
class PreviousRun:
    """What the sessions before have left in ``state``: their options, plan and commits.

    Attributes:
        session: ``run.json``.
        scenarios: the scenarios document with its plan.
        tuned: the tuned parameters.
        revisions: the pins.
    """

    session: JsonObject
    scenarios: JsonObject
    tuned: JsonObject
    revisions: Revisions

    @property
    def tunes(self) -> bool:
        """Whether the run finds parameters, and certifies nothing."""
        return "mode" in self.session

    @property
    def shard(self) -> str | None:
        """Which shard of a run it is, ``K/N``; None for a whole one."""
        shard: str | None = self.session.get("shard")
        return shard

    def require_same_options(self, run: Run) -> None:
        """Make sure that a run asks for what the earlier sessions made, as far as that is known before any model is.

        Raises:
            ConfigurationError: it does not; names what differs.
        """
        names = ("suite", "tier", "profile", "determinism", "policy_digest")
        asked = {
            "suite": run.suite.name,
            "tier": run.settings.tier,
            "profile": run.settings.profile,
            "determinism": run.settings.determinism,
            "policy_digest": run.policy.digest,
        }
        before = {**{name: self.session[name] for name in names}, "tunes": self.tunes, "shard": self.shard}
        now = {**asked, "tunes": run.tunes, "shard": run.settings.shard}
        # Of another suite all else is another too; and a digest says nothing beside what it is the digest of.
        _require_equal(run, {"suite": before.pop("suite")}, {"suite": now.pop("suite")})
        digests = {"policy_digest": before.pop("policy_digest")}, {"policy_digest": now.pop("policy_digest")}
        _require_equal(run, {**before, "tuned_edit_params": self.tuned}, {**now, "tuned_edit_params": run.suite.tuned})
        _require_equal(run, *digests)

    def require_same_plan(self, run: Run) -> None:
        """Make sure that a run with every source resolved has the plan and reads the commits of the earlier sessions.

        Raises:
            ConfigurationError: it does not; names what differs.
        """
        _require_equal(
            run,
            {"scenarios": self.scenarios, "revisions": commits(self.revisions)},
            {"scenarios": run.plan.document(run.suite), "revisions": commits(run.revisions)},
        )


@dataclass(frozen=True)
class Reusable:
    """What a run directory holds of the certificates of a run.

    Attributes:
        total: how many the run needs.
        reused: what an item needs of each one that is still valid, see :func:`excerpt`; by the id of its request.
        refused: why another one that is there is not; by the same.
        null: the measured null statistics that all reused certificates of a model share; by model id.
        what: what is counted, in words.
    """

    total: int
    reused: Mapping[str, JsonObject]
    refused: Mapping[str, str]
    null: Mapping[str, NullRatios]
    what: str = "certificates"

    def describe(self) -> str:
        """Return in one line how many are reused, how many are missing, and how many are made again, and why."""
        parts = [f"{len(self.reused)} of {self.total} {self.what} reused"]
        missing = self.total - len(self.reused) - len(self.refused)
        if missing:
            parts.append(f"{missing} not made yet")
        parts += [f"{count} made again: {why}" for why, count in Counter(self.refused.values()).items()]
        return "; ".join(parts)


def read_previous_run(out: Path, option: str = OPTION) -> PreviousRun:
    """Read the state of a run directory.

    Args:
        out: the directory.
        option: how messages call what names it.

    Raises:
        ConfigurationError: a file of it is missing or is not what it should be.
    """
    return PreviousRun(
        session=_read_state(out, MARKER, "run", option),
        scenarios=_read_state(out, SCENARIOS, "scenarios", option),
        tuned=_read_state(out, TUNED, "tuned_edit_params", option),
        revisions=Revisions.from_document(_read_state(out, REVISIONS, "model_revisions", option)),
    )


def with_previous_pins(run: Run) -> Run:
    """Return the run with the commits of the earlier sessions as its given revisions, unless the user gives some."""
    if run.settings.revisions is not None:
        return run
    return replace(run, settings=replace(run.settings, revisions=str(run.out / REVISIONS)))


def scan_certificates(run: Run, conditions: Mapping[str, Conditions]) -> Reusable:
    """Look at every certificate that a run directory holds.

    Args:
        run: the run, with every source resolved.
        conditions: how certificates are made now, by model.
    """
    reused: dict[str, JsonObject] = {}
    refused: dict[str, str] = {}
    measured: dict[str, NullRatios] = {}
    for request in run.requests:
        path = certificate_path(run.out, request)
        if not path.is_file():
            continue
        null = _known_null(run, request.model)
        try:
            certificate = read_json(path, below=run.out)
        except FormatError:
            refused[request.id] = "it cannot be read"
            continue
        why = why_not(certificate, request, run, conditions[request.model.id], null or measured.get(request.model.id))
        if why is None:
            reused[request.id] = excerpt(certificate)
            if null is None:
                measured.setdefault(request.model.id, certificate["rmt"]["null_log_ratios"])
        else:
            refused[request.id] = why
    return Reusable(len(run.requests), reused, refused, measured)


def excerpt(certificate: JsonObject) -> JsonObject:
    """Return a certificate without its evidence: what its line, its explanation and its properties are made of."""
    policy, structure = certificate["resolved_policy"], certificate["structure"]
    return {
        **{name: certificate[name] for name in _EXCERPT},
        "invariants": {name: certificate["invariants"][name] for name in ("status", "violations")},
        "structure": {name: structure[name] for name in ("summary",) if name in structure},
        "resolved_policy": {"primary_metric": policy["primary_metric"]},
        "policy_provenance": {"tier": certificate["policy_provenance"]["tier"]},
        "baseline_ref": {"primary_metric": certificate["baseline_ref"]["primary_metric"]},
        "distribution": {name: value for name, value in certificate["distribution"].items() if name == "kl_mean"},
        FAILED_GATES: failed_gates(certificate),
    }


def settle_baselines(run: Run, previous: PreviousRun, conditions: Mapping[str, Conditions], reusable: Reusable) -> None:
    """Keep what was measured on the baselines where it would be the same now, and remove the rest.

    New certificates of a model get the null statistics of those that are reused: measured again, on a GPU, their last
    digits could differ.
    """
    before = previous.session.get("measured_under", {})
    for spec in run.unedited:
        folder, now = run.out / run.suite.folders[spec.id] / BASELINE, conditions[spec.id]
        fits = before.get(spec.id) == now.fingerprint
        for path in [path for pattern in (WINDOWS.format("*"), NULL_RATIOS) for path in folder.glob(pattern)]:
            if not (fits and now.weights().encode() in _head(path, run.out)):
                path.unlink()
        if null := reusable.null.get(spec.id):
            atomic_write(folder / NULL_RATIOS, compact_json({"model_digest": now.weights(), "log_ratios": null}))


def _known_null(run: Run, model: ModelSpec) -> NullRatios | None:
    """Return a model's null statistics where nobody measures them: those of its preset, or none."""
    if model.id in run.presets:
        return run.presets[model.id].null_log_ratios
    return {} if run.suite.runs["calibration"] == 0 else None


def _head(path: Path, out: Path) -> bytes:
    """Return the beginning of a file; nothing of what is no file of the run's directory."""
    try:
        return read_head(path, _HEAD, below=out)
    except UnfitFileError:
        return b""


def _read_state(out: Path, file: Path, schema: str, option: str) -> JsonObject:
    name = f"{STATE}/{file.name}"
    try:
        document = read_json(out / file, name, max_bytes=_MAX_STATE_BYTES, below=out)
    except FormatError as error:
        raise ConfigurationError(f"{option}: {error}. Name the directory of a run, or a new one.") from error
    require_schema(schema, document, f"{option}: {name}")
    return document


def commits(revisions: Revisions) -> JsonObject:
    """Return the commit of every source, by role and key."""
    found: JsonObject = {}
    for (role, key), pin in revisions.pins.items():
        found.setdefault(role.value, {})[key] = pin.revision
    return found


def _require_equal(run: Run, before: JsonObject, now: JsonObject) -> None:
    now = parse_json(compact_json(now).encode(), "the run")  # lists for tuples, as in what was read
    found = [
        f"{place} was {one}, is now {other}" for place, one, other in islice(differences(before, now), MAX_DIFFERENCES)
    ]
    if found:
        raise ConfigurationError(
            f"{OPTION}: {run.out} holds another run: {printable('; '.join(found))}. Ask for the same again, or name a "
            "new directory."
        )


def differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield every place at which two JSON values differ, and what stands there in the one and in the other."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key, _UNKNOWN), now.get(key, _UNKNOWN), f"{path}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif before != now:
        yield path, _shown(before), _shown(now)


def _shown(value: object) -> str:
    text = "absent" if value is _UNKNOWN else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
