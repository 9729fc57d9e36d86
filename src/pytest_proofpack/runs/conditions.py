"""Whether a stored certificate is the one that this session would make: how it was made against how it would be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from pytest_proofpack import __version__
from pytest_proofpack.certificate.check import recompute_certificate
from pytest_proofpack.certificate.formats import CURRENT, format_of
from pytest_proofpack.certificate.kept_text import KEY
from pytest_proofpack.certificate.presets import NullRatios
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.certificate.verdict import certificate_key
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.common.words import printable
from pytest_proofpack.guards.readings import READINGS_GUARD, readings_evidence
from pytest_proofpack.plan.byoe import settled_request
from pytest_proofpack.plan.determinism import reached_determinism
from pytest_proofpack.plan.records import CertificateRequest, SubjectEdit, TextFacts, WindowPlan
from pytest_proofpack.plan.tool_edits import TOOL
from pytest_proofpack.runs.run import Run

LIBRARIES = ("torch", "transformers")
"""What computes: a certificate made by another version of one of them is made again."""

_INPUTS = (
    *("place", "suite", "edit", "policy", "profile", "revision", "trust in the model's code"),
    *("window plan", "text", "tokenizer"),
)
"""What a certificate is of, in the words of :func:`_as_made`; how it was computed is not among them."""
_SHOWN = 80
_UNKNOWN = object()
"""Stands for what is not recorded."""


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
        subjects: digest of the directory of every edited checkpoint that can be used, by scenario.
        extensions: what was added to the package from outside, as certificates record it.
        told: what the files of edited checkpoints say that their edits are called, by scenario.
        readings: how edited checkpoints are read here, and by which version of what, as :func:`reading_of` has it.
    """

    plan: WindowPlan
    text: TextFacts
    tokenizer_hash: str
    device: str | None
    batch_windows: int | None
    libraries: Mapping[str, str]
    weights: Callable[[], str]
    subjects: Mapping[str, str]
    extensions: tuple[JsonObject, ...] = ()
    told: Mapping[str, str | None] = field(default_factory=dict)
    readings: Mapping[str, JsonObject] = field(default_factory=dict)

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
                **({"extensions": list(self.extensions)} if self.extensions else {}),
            }
        )


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
    if request.subject is not None and request.scenario.id not in conditions.subjects:
        return "its edited model can't be used"
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


def reading_of(certificate: JsonObject) -> JsonObject:
    """Return how the edited checkpoint of a certificate that fits the schema was read.

    Of one that a tool made also by which version of what it was made. How it is quantized is left out then: its recipe
    says so, and whoever has not made it knows no more.
    """
    reading = {key: certificate["readings"][key] for key in READINGS_GUARD.evidence}
    if certificate["provenance"]["edit"].get("source") != TOOL:
        return reading
    del reading["quantization"]
    return {**reading, TOOL: certificate["structure"]["edit_details"].get(TOOL)}


def conditions_of(
    certificate: JsonObject, subjects: Mapping[str, SubjectEdit], readings: Mapping[str, JsonObject]
) -> Conditions:
    """Return the conditions under which a certificate was made, by what it says itself; it fits the schema.

    Args:
        certificate: the certificate.
        subjects: the edited checkpoints as they were settled when the run was prepared, by scenario.
        readings: as :class:`Conditions` has it.
    """
    made = _as_made(certificate)
    seq_len, preview, final, seed = certificate["dataset"]["seq_len"], *_sides(certificate)
    libraries = {name: made[f"version of {name}"] for name in LIBRARIES}
    return Conditions(
        plan=WindowPlan(seq_len, preview, final, seed),
        text=_text_of(certificate),
        tokenizer_hash=certificate["meta"]["tokenizer_hash"],
        device=None,
        batch_windows=None,
        libraries={name: str(version) for name, version in libraries.items() if version is not _UNKNOWN},
        weights=lambda: str(certificate["provenance"]["model_digest"]["baseline"]),
        subjects={scenario: edit.digest or "" for scenario, edit in subjects.items()},
        extensions=tuple(certificate["provenance"].get("extensions", ())),
        told={scenario: edit.label for scenario, edit in subjects.items()},
        readings=readings,
    )


def other_inputs(certificate: JsonObject, request: CertificateRequest, run: Run, conditions: Conditions) -> str | None:
    """Return in words which input of a certificate that fits the schema is not the run's; None if all are.

    Unlike :func:`why_not` this does not ask who computed it, or with what.
    """
    made, digests = _as_made(certificate), certificate["provenance"]["model_digest"]
    wanted = _as_wanted(request, run, conditions, certificate["meta"]["device"])
    pairs = {name: (made[name], wanted[name]) for name in _INPUTS}
    pairs["model's digest"] = (digests["baseline"], conditions.weights())
    if request.subject is not None:
        pairs["edited model's digest"] = (digests["subject"], conditions.subjects[request.scenario.id])
    differing = [f"{name} {_difference(*pair)}" for name, pair in pairs.items() if pair[0] != pair[1]]
    return f"its {'; its '.join(differing)}" if differing else None


def _difference(made: object, wanted: object) -> str:
    if isinstance(made, TextFacts) and isinstance(wanted, TextFacts):
        before, after = asdict(wanted), asdict(made)
        name = next((name for name in ("text_sha256", *after) if before[name] != after[name]), "text_sha256")
        return f"has {name} {after[name]}, the run's {before[name]}"
    return f"is {made}, the run's {wanted}"


def _as_made(certificate: JsonObject) -> dict[str, object]:
    """Return what a certificate that fits the schema says of how it was made."""
    meta, dataset, provenance = certificate["meta"], certificate["dataset"], certificate["provenance"]
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
        "window plan": (dataset["seq_len"], *_sides(certificate)),
        "text": _text_of(certificate),
        "tokenizer": meta["tokenizer_hash"],
        "device": meta["device"],
        "determinism": (meta["determinism"].get("requested"), meta["determinism"].get("reached")),
        "calibration": certificate["rmt"].get("null_log_ratios"),
        "version of pytest-proofpack": provenance["tool"]["version"],
        "set of extensions": tuple(provenance.get("extensions", ())),
        "way of reading": reading_of(certificate),
        **{f"version of {name}": libraries.get(name, _UNKNOWN) for name in LIBRARIES},
        "record of its speed": isinstance(speed, int | float) and speed > 0,
        "text of the worst windows": KEY in dataset,
    }


def _sides(certificate: JsonObject) -> tuple[int, int, int]:
    """Return how many preview and final windows a certificate was measured on, and the seed of their draws."""
    windows = certificate["dataset"]["windows"]
    return windows["preview"], windows["final"], certificate["meta"]["seeds"].get("edit")


def _text_of(certificate: JsonObject) -> TextFacts:
    dataset = certificate["dataset"]
    digests = dataset["hash"]
    return TextFacts(
        provider=dataset["provider"],
        split=dataset["split"],
        documents=dataset["documents"],
        text_sha256=digests["text"],
        total_tokens=digests["total_tokens"],
        total_bytes=digests["total_bytes"],
        available_windows=dataset["windows"]["available"],
        source=dataset.get("source"),
        options=dataset.get("options", {}),
    )


def _as_wanted(request: CertificateRequest, run: Run, conditions: Conditions, device: str) -> dict[str, object]:
    """Return what :func:`_as_made` would say of a certificate that was made now, on this kind of device."""
    if request.subject is not None:
        name = request.scenario.id
        told = conditions.told.get(name)
        request = settled_request(request, conditions.weights(), conditions.subjects[name], told)
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
        "determinism": (requested, reached_determinism(requested, device)),
        "version of pytest-proofpack": __version__,
        "set of extensions": conditions.extensions,
        "way of reading": conditions.readings.get(request.scenario.id, readings_evidence()),
        **{f"version of {name}": version for name, version in conditions.libraries.items()},
        "record of its speed": True,
        "text of the worst windows": run.settings.keep_text,
    }
