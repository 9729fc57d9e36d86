"""Going on with a run: whether a directory holds the same run, and which of its certificates still hold.

What lies there is read as if a stranger had written it. A certificate is reused if what it says of how it was made is
what this session would say, and if every number in it follows from its evidence; any other is made again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pytest_proofpack import __version__
from pytest_proofpack.certificate.check import recompute_certificate
from pytest_proofpack.certificate.formats import CURRENT, format_of
from pytest_proofpack.certificate.presets import NullRatios
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.certificate.verdict import certificate_key
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.schemas import require_schema
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json, read_json, sha256_of
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.plan.byoe import settled_request
from pytest_proofpack.plan.pins import Revisions, read_revisions
from pytest_proofpack.plan.records import CertificateRequest, ModelSpec, TextFacts, WindowPlan
from pytest_proofpack.report.formatting import printable
from pytest_proofpack.runs.directory import BASELINE, CERTIFICATE, MARKER, NULL_RATIOS, REVISIONS, STATE, WINDOWS
from pytest_proofpack.runs.run import Run

OPTION = "--proofpack-resume"
WORKER_INPUT = "proofpack_reused"
"""Key under which the controller sends a worker what it reuses, as one JSON text in xdist's ``workerinput``."""
LIBRARIES = ("torch", "transformers")
"""What computes: a certificate made by another version of one of them is made again."""

_MAX_STATE_BYTES = 16 * 1024 * 1024
_HEAD = 1 << 20
"""Where in such a file its model's digest stands: in the header of one kind, anywhere in the other, which is small."""
_MAX_DIFFERENCES = 5
_SHOWN = 80
_UNKNOWN = object()
"""Stands for what is not recorded."""
_EXCERPT = ("meta", "scenario", "dataset", "primary_metric", "validation", "outcome", "certificate_digest", "volatile")


@dataclass(frozen=True)
class Earlier:
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
        _require_equal(
            run,
            {**{name: self.session[name] for name in names}, "tuned_edit_params": self.tuned},
            {**asked, "tuned_edit_params": run.suite.tuned},
        )

    def require_same_plan(self, run: Run, revisions: Revisions) -> None:
        """Make sure that a run with every source resolved has the plan and reads the commits of the earlier sessions.

        Raises:
            ConfigurationError: it does not; names what differs.
        """
        _require_equal(
            run,
            {"scenarios": self.scenarios, "revisions": _commits(self.revisions)},
            {"scenarios": run.plan.document(run.suite), "revisions": _commits(revisions)},
        )


@dataclass(frozen=True)
class Conditions:
    """How this session makes the certificates of one model.

    Attributes:
        plan: how the text is cut.
        text: facts about the text.
        tokenizer_hash: fingerprint of how it is split.
        device: torch's kind of device; None where it is not known, because workers of other hosts choose theirs.
        batch_windows: windows per forward pass; None where memory was not planned.
        libraries: versions by name, see :data:`LIBRARIES`.
        weights: returns the digest of the model's directory; it takes a while the first time, so it is asked for last.
        subjects: digest of the directory of every edited checkpoint, by scenario.
    """

    plan: WindowPlan
    text: TextFacts
    tokenizer_hash: str
    device: str | None
    batch_windows: int | None
    libraries: Mapping[str, str]
    weights: Callable[[], str]
    subjects: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """The hexadecimal SHA-256 of all that what is measured on the baseline depends on, but for its weights."""
        return sha256_of(
            {
                "plan": asdict(self.plan),
                "text": asdict(self.text),
                "tokenizer": self.tokenizer_hash,
                "device": self.device,
                "batch_windows": self.batch_windows,
                "libraries": dict(self.libraries),
            }
        )


@dataclass(frozen=True)
class Stock:
    """What a run directory holds of the certificates of a run.

    Attributes:
        total: how many the run needs.
        reused: what an item needs of each one that is still valid, see :func:`excerpt`; by the id of its request.
        refused: why another one that is there is not; by the same.
        null: the measured null statistics that all reused certificates of a model share; by model id.
    """

    total: int
    reused: Mapping[str, JsonObject]
    refused: Mapping[str, str]
    null: Mapping[str, NullRatios]

    def describe(self) -> str:
        """Return in one line how many are reused, how many are missing, and how many are made again, and why."""
        parts = [f"{len(self.reused)} of {self.total} certificates reused"]
        missing = self.total - len(self.reused) - len(self.refused)
        if missing:
            parts.append(f"{missing} not made yet")
        parts += [f"{count} made again: {why}" for why, count in Counter(self.refused.values()).items()]
        return "; ".join(parts)


def read_earlier(out: Path) -> Earlier:
    """Read the state of a run directory.

    Raises:
        ConfigurationError: a file of it is missing or is not what it should be.
    """
    return Earlier(
        session=_read_state(out / MARKER, "run"),
        scenarios=_read_state(out / STATE / "scenarios.json", "scenarios"),
        tuned=_read_state(out / STATE / "tuned_edit_params.json", "tuned_edit_params"),
        revisions=read_revisions(out / REVISIONS),
    )


def with_earlier_pins(run: Run) -> Run:
    """Return the run with the commits of the earlier sessions as its given revisions, unless the user gives some."""
    if run.settings.revisions is not None:
        return run
    return replace(run, settings=replace(run.settings, revisions=str(run.out / REVISIONS)))


def take_stock(run: Run, conditions: Callable[[ModelSpec], Conditions]) -> Stock:
    """Look at every certificate that a run directory holds.

    Args:
        run: the run, with every source resolved.
        conditions: returns how certificates of a model are made now; with the same ``weights`` every time.
    """
    reused: dict[str, JsonObject] = {}
    refused: dict[str, str] = {}
    measured: dict[str, NullRatios] = {}
    for request in run.requests:
        path = run.out / request.folder / CERTIFICATE
        if not path.is_file():
            continue
        null = _known_null(run, request.model)
        try:
            certificate = read_json(path)
        except FormatError:
            refused[request.id] = "it cannot be read"
            continue
        why = why_not(certificate, request, run, conditions(request.model), null or measured.get(request.model.id))
        if why is None:
            reused[request.id] = excerpt(certificate)
            if null is None:
                measured.setdefault(request.model.id, certificate["rmt"]["null_log_ratios"])
        else:
            refused[request.id] = why
    return Stock(len(run.requests), reused, refused, measured)


def why_not(
    certificate: JsonObject, request: CertificateRequest, run: Run, conditions: Conditions, null: NullRatios | None
) -> str | None:
    """Return why a stored certificate is not the one that this session would make; None if it is.

    Args:
        certificate: whatever lies where the request's certificate should.
        request: the request.
        run: the run.
        conditions: how certificates of its model are made now.
        null: the null statistics of its model; None if they are whatever was measured.
    """
    if certificate_findings(certificate) or format_of(certificate) is not CURRENT:
        return "it does not fit the schema"
    made = _as_made(certificate)
    wanted = _as_wanted(request, run, conditions, conditions.device or certificate["meta"]["device"])
    if null is not None:
        wanted["calibration"] = null
    for name, value in wanted.items():
        if made[name] not in (value, _UNKNOWN):
            return f"its {name} differs"
    digests = certificate["provenance"]["model_digest"]
    if digests["baseline"] != conditions.weights():
        return "its model's digest differs"
    if request.subject is not None and digests["subject"] != conditions.subjects[request.scenario.id]:
        return "its edited model's digest differs"
    findings = recompute_certificate(certificate)
    return f"its {printable(findings[0].partition(':')[0])[:_SHOWN]} does not verify" if findings else None


def excerpt(certificate: JsonObject) -> JsonObject:
    """Return a certificate without its evidence: what its line, its explanation and its properties are made of."""
    policy, structure = certificate["resolved_policy"], certificate["structure"]
    return {
        **{name: certificate[name] for name in _EXCERPT},
        "invariants": {name: certificate["invariants"][name] for name in ("status", "violations")},
        "structure": {name: structure[name] for name in ("summary",) if name in structure},
        "resolved_policy": {"primary_metric": policy["primary_metric"]},
    }


def settle_baselines(run: Run, earlier: Earlier, conditions: Callable[[ModelSpec], Conditions], stock: Stock) -> None:
    """Keep what was measured on the baselines where it would be the same now, and remove the rest.

    New certificates of a model get the null statistics of those that are reused: measured again, on a GPU, their last
    digits could differ.
    """
    before = earlier.session.get("measured_under", {})
    for spec in run.suite.models:
        folder, now = run.out / run.suite.folders[spec.id] / BASELINE, conditions(spec)
        fits = before.get(spec.id) == now.fingerprint
        for path in [path for pattern in (WINDOWS.format("*"), NULL_RATIOS) for path in folder.glob(pattern)]:
            if not (fits and now.weights().encode() in _head(path)):
                path.unlink()
        if null := stock.null.get(spec.id):
            atomic_write(folder / NULL_RATIOS, compact_json({"model_digest": now.weights(), "log_ratios": null}))


def to_text(reused: Mapping[str, JsonObject]) -> str:
    """Return what is reused as one JSON text, for ``workerinput``."""
    return json.dumps(reused)


def from_text(text: str) -> dict[str, JsonObject]:
    """Rebuild what :func:`to_text` returned."""
    reused: dict[str, JsonObject] = json.loads(text)
    return reused


def _as_made(certificate: JsonObject) -> dict[str, object]:
    """Return what a certificate that fits the schema says of how it was made."""
    meta, dataset, provenance = certificate["meta"], certificate["dataset"], certificate["provenance"]
    windows, digests = dataset["windows"], dataset["hash"]
    recorded = certificate["volatile"].get("libraries")
    libraries = recorded if isinstance(recorded, Mapping) else {}
    speed = certificate["volatile"].get("tokens_per_second")
    return {
        "place": (*certificate_key(certificate), certificate["scenario"]["category"]),
        "suite": meta["suite"],
        "edit": {key: value for key, value in provenance["edit"].items() if key != "sha256"},
        "policy": certificate["policy_provenance"]["policy_digest"],
        "profile": meta["profile"],
        "revision": meta["revision"],
        "trust in the model's code": meta.get("trust_remote_code", False),
        "window plan": (dataset["seq_len"], windows["preview"], windows["final"], meta["seeds"].get("edit")),
        "text": TextFacts(
            provider=dataset["provider"],
            split=dataset["split"],
            documents=dataset["documents"],
            text_sha256=digests["text"],
            total_tokens=digests["total_tokens"],
            available_windows=windows["available"],
            source=dataset.get("source"),
        ),
        "tokenizer": meta["tokenizer_hash"],
        "device": meta["device"],
        "determinism": (meta["determinism"].get("requested"), meta["determinism"].get("reached")),
        "calibration": certificate["rmt"].get("null_log_ratios"),
        "version of pytest-proofpack": provenance["tool"]["version"],
        **{f"version of {name}": libraries.get(name, _UNKNOWN) for name in LIBRARIES},
        "record of its speed": isinstance(speed, int | float) and speed > 0,
    }


def _as_wanted(request: CertificateRequest, run: Run, conditions: Conditions, device: str) -> dict[str, object]:
    """Return what :func:`_as_made` would say of a certificate that was made now, on this kind of device."""
    if request.subject is not None:
        request = settled_request(request, conditions.weights(), conditions.subjects[request.scenario.id])
    model, scenario, plan, requested = request.model, request.scenario, conditions.plan, run.settings.determinism
    return {
        "place": (model.id, scenario.id, request.run, scenario.category.value),
        "suite": run.suite.name,
        "edit": request.edit_facts,
        "policy": run.policy.digest,
        "profile": run.settings.profile,
        "revision": model.revision,
        "trust in the model's code": model.trust_remote_code,
        "window plan": (plan.seq_len, plan.preview, plan.final, plan.seed),
        "text": conditions.text,
        "tokenizer": conditions.tokenizer_hash,
        "device": device,
        # As devices.configure_determinism has it: a CPU is always strict.
        "determinism": (requested, "strict" if device == "cpu" else requested),
        "version of pytest-proofpack": __version__,
        **{f"version of {name}": version for name, version in conditions.libraries.items()},
        "record of its speed": True,
    }


def _known_null(run: Run, model: ModelSpec) -> NullRatios | None:
    """Return a model's null statistics where nobody measures them: those of its preset, or none."""
    if model.id in run.presets:
        return run.presets[model.id].null_log_ratios
    return {} if run.suite.runs["calibration"] == 0 else None


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD)


def _read_state(path: Path, schema: str) -> JsonObject:
    name = f"{STATE}/{path.name}"
    try:
        document = read_json(path, name, max_bytes=_MAX_STATE_BYTES)
    except FormatError as error:
        raise ConfigurationError(f"{OPTION}: {error}. Name the directory of a run, or a new one.") from error
    require_schema(schema, document, f"{OPTION}: {name}")
    return document


def _commits(revisions: Revisions) -> JsonObject:
    """Return the commit of every source, by role and key."""
    found: JsonObject = {}
    for (role, key), pin in revisions.pins.items():
        found.setdefault(role.value, {})[key] = pin.revision
    return found


def _require_equal(run: Run, before: JsonObject, now: JsonObject) -> None:
    now = parse_json(compact_json(now).encode(), "the run")  # lists for tuples, as in what was read
    found = list(islice(_differences(before, now), _MAX_DIFFERENCES))
    if found:
        raise ConfigurationError(
            f"{OPTION}: {run.out} holds another run: {printable('; '.join(found))}. Ask for the same again, or name a "
            "new directory."
        )


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Name every place at which two JSON values differ, and what stands there."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key, _UNKNOWN), now.get(key, _UNKNOWN), f"{path}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from _differences(*pair, f"{path}[{index}]")
    elif before != now:
        yield f"{path} was {_shown(before)}, is now {_shown(now)}"


def _shown(value: object) -> str:
    text = "absent" if value is _UNKNOWN else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
