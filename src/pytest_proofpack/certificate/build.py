"""The certificate, schema v1: build it from evidence, validate it, and recompute every number in it.

A certificate is its evidence plus what :func:`~pytest_proofpack.certificate.derive.derive` makes of it. Everything
outside of the ``volatile`` block is deterministic; ``certificate_digest`` is over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_proofpack import __version__
from pytest_proofpack.certificate.bootstrap import is_finite
from pytest_proofpack.certificate.derive import GUARD_EVIDENCE, STRUCTURE_EVIDENCE, derive, differences
from pytest_proofpack.certificate.policy import Policy, looser_than_tier, policy_digest, resolve_policy
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, canonical_json, parse_json, sha256_of
from pytest_proofpack.errors import ConfigurationError, EvaluationError, FormatError

if TYPE_CHECKING:
    from pytest_proofpack.guards.changes import ModelChanges
    from pytest_proofpack.guards.invariants import StructureMeasure, Violation
    from pytest_proofpack.plan.records import CertificateRequest, Draw, TextFacts, WindowLosses, WindowPlan

SCHEMA_VERSION = "v1"
OUTSIDE_DIGEST = ("volatile", "certificate_digest")
WHOLLY_DERIVED = (
    "primary_metric", "primary_metric_tail", "baseline_ref", "validation", "policy_digest", "outcome",
)  # fmt: skip
"""Blocks that hold nothing but what follows from the evidence."""
_MAX_FINDINGS = 100
_FINDING_LENGTH = 400


@dataclass(frozen=True)
class ModelFacts:
    """How the models were run: what a certificate records under ``meta`` and ``provenance``.

    ``baseline_digest`` is the OpenSSF root of the baseline's directory, ``subject_digest`` that of the subject's if it
    was loaded from one.
    """

    revision: str | None
    device: str
    dtype: str
    tokenizer_hash: str
    determinism: Mapping[str, str]
    baseline_digest: str
    subject_digest: str | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything measured for one certificate.

    Attributes:
        request: what was to be certified.
        suite: name of the suite.
        profile: verification profile the run asked for.
        policy: the resolved policy.
        plan: how windows were drawn; the draw's seed is ``plan.seed + request.run``.
        text: facts about the evaluation text.
        baseline: losses of the unedited model.
        subject: losses of the edited model on the same windows.
        structures: measured structure of baseline and subject.
        violations: structural differences found by the invariants guard.
        guards: evidence of the other guards, by block: ``spectral``, ``rmt``, ``variance``, ``moe``, ``distribution``
            and ``guard_overhead``.
        model: facts about how the models were run.
        touched: names of the parameters that the edit changed.
        details: facts the edit reports about itself (captured energy, zeros, clipped values, ...).
        changes: what separates a subject that was loaded from its baseline; None for one edited in memory.
        volatile: times, throughput, memory and library versions; outside of every digest.
    """

    request: CertificateRequest
    suite: str
    profile: str
    policy: Policy
    plan: WindowPlan
    text: TextFacts
    baseline: Draw
    subject: Draw
    structures: tuple[StructureMeasure, StructureMeasure]
    violations: tuple[Violation, ...]
    guards: Mapping[str, JsonObject]
    model: ModelFacts
    touched: tuple[str, ...]
    details: JsonObject
    changes: ModelChanges | None = None
    volatile: JsonObject = field(default_factory=dict)


def build_certificate(evidence: Evidence) -> JsonObject:
    """Return the certificate for ``evidence``.

    Raises:
        EvaluationError: baseline and subject did not see the same windows, the text gave one window twice, or the
            baseline's loss is not finite.
    """
    _require_paired(evidence)
    _require_distinct(evidence)
    # Derived from what a reader will read: the order of keys, say, does not survive writing.
    document = parse_json(canonical_json(_evidence_blocks(evidence)).encode(), evidence.request.id)
    return finish_certificate(_merge(document, derive(document)))


def finish_certificate(document: JsonObject) -> JsonObject:
    """Return ``document`` with its ``certificate_digest`` set."""
    return {**document, "certificate_digest": certificate_digest(document)}


def certificate_digest(certificate: Mapping[str, Any]) -> str:
    """Return the hexadecimal SHA-256 of the canonical certificate without ``volatile`` and the digest itself."""
    return sha256_of({key: value for key, value in certificate.items() if key not in OUTSIDE_DIGEST})


def check_certificate(certificate: JsonObject) -> list[str]:
    """Verify one certificate by itself: schema, digest, policy, and every number that follows from its evidence.

    Returns:
        One line per finding, each naming the field; an empty list means that everything holds.
    """
    return schema_findings("certificate", certificate) or recompute_certificate(certificate)


def recompute_certificate(certificate: JsonObject) -> list[str]:
    """Do what :func:`check_certificate` does, for a certificate that is known to fit its schema."""
    findings = []
    if certificate["certificate_digest"] != certificate_digest(certificate):
        findings.append("certificate_digest: does not match the content")
    findings += _policy_findings(certificate)
    try:
        derived = derive(certificate)
    except FormatError as error:
        findings.append(f"cannot be recomputed: {error}")
    else:
        findings += differences(certificate, derived) + _unsupported(certificate, derived)
    return [finding[:_FINDING_LENGTH] for finding in findings[:_MAX_FINDINGS]]


def _unsupported(certificate: JsonObject, derived: JsonObject) -> list[str]:
    """Name every key of a derived block or of a guard's that is neither derived nor evidence."""
    blocks = {block: certificate[block] for block in WHOLLY_DERIVED}
    for guard, evidence in {**GUARD_EVIDENCE, "structure": STRUCTURE_EVIDENCE}.items():
        blocks[guard] = {key: value for key, value in certificate[guard].items() if key not in evidence}
    return [finding for block, recorded in blocks.items() for finding in _surplus(recorded, derived[block], block)]


def _surplus(recorded: object, derived: object, path: str) -> list[str]:
    """Name every key that was not derived."""
    if isinstance(recorded, list) and isinstance(derived, list):
        pairs = enumerate(zip(recorded, derived, strict=False))  # another length is a difference already
        return [finding for index, (ours, theirs) in pairs for finding in _surplus(ours, theirs, f"{path}[{index}]")]
    if not (isinstance(recorded, Mapping) and isinstance(derived, Mapping)):
        return []
    findings = [
        f"{path}.{key}: nothing in the evidence supports it" for key in sorted(recorded.keys() - derived.keys())
    ]
    common = sorted(recorded.keys() & derived.keys())
    return findings + [finding for key in common for finding in _surplus(recorded[key], derived[key], f"{path}.{key}")]


def _policy_findings(certificate: JsonObject) -> list[str]:
    provenance = certificate["policy_provenance"]
    policy = certificate["resolved_policy"]
    try:
        loose = looser_than_tier(provenance["tier"], policy, certificate["meta"]["profile"])
        findings = [f"resolved_policy.{finding}" for finding in loose]
        known = resolve_policy(provenance["tier"]).version
    except ConfigurationError as error:
        return [f"policy_provenance.tier: {error}"]
    if provenance["policy_version"] != known:
        findings.append(f"policy_provenance.policy_version: {provenance['policy_version']!r}, known is {known!r}")
    if provenance["policy_digest"] != policy_digest(policy, provenance["overrides"]):
        findings.append("policy_provenance.policy_digest: does not match the recorded policy")
    return findings


def _require_paired(evidence: Evidence) -> None:
    for name in ("preview", "final"):
        baseline: WindowLosses = getattr(evidence.baseline, name)
        subject: WindowLosses = getattr(evidence.subject, name)
        if baseline.ids != subject.ids or baseline.token_counts != subject.token_counts:
            raise EvaluationError(f"{evidence.request.id}: baseline and subject saw different {name} windows")
        if not is_finite(baseline.losses):
            raise EvaluationError(
                f"{evidence.request.model.id}: the baseline's own loss is not finite, so nothing can be compared "
                "with it. Check the checkpoint for NaN or infinite weights, and try another dtype."
            )


def _require_distinct(evidence: Evidence) -> None:
    ids = [*evidence.baseline.preview.ids, *evidence.baseline.final.ids]
    repeated = len(ids) - len(set(ids))
    if repeated:
        raise EvaluationError(
            f"{evidence.request.id}: {repeated} of {len(ids)} windows repeat another one token for token, so they are "
            "no evidence of their own. Supply a text with fewer repetitions."
        )


def _evidence_blocks(evidence: Evidence) -> JsonObject:
    request, policy, plan, text = evidence.request, evidence.policy, evidence.plan, evidence.text
    seed = plan.seed + request.run
    edit = request.edit_facts
    digests = {"baseline": evidence.model.baseline_digest, "subject": evidence.model.subject_digest}
    changes = {} if evidence.changes is None else {"changes": evidence.changes.to_json()}
    baseline_structure, subject_structure = evidence.structures
    return {
        "schema_version": SCHEMA_VERSION,
        "edit_name": request.edit_name,
        "scenario": {"id": request.scenario.id, "category": request.scenario.category.value, "run": request.run},
        "meta": {
            "model_id": request.model.id,
            "revision": evidence.model.revision,
            "adapter": "hf_causal",
            "device": evidence.model.device,
            "dtype": evidence.model.dtype,
            "suite": evidence.suite,
            "profile": evidence.profile,
            "seeds": {"windows": seed, "bootstrap": seed, "edit": plan.seed},
            "tokenizer_hash": evidence.model.tokenizer_hash,
            "determinism": dict(evidence.model.determinism),
            **({"trust_remote_code": True} if request.model.trust_remote_code else {}),
        },
        "dataset": {
            "provider": text.provider,
            "split": text.split,
            **({"source": dict(text.source)} if text.source else {}),
            **({"options": dict(text.options)} if text.options else {}),
            "seq_len": plan.seq_len,
            "stride": plan.seq_len,
            "documents": text.documents,
            "windows": {
                "seed": seed,
                "available": text.available_windows,
                "stats": {
                    "bootstrap": {
                        "replicates": policy.section("primary_metric")["replicates"],
                        "alpha": policy.section("primary_metric")["alpha"],
                        "seed": seed,
                        "method": "bca",
                    }
                },
            },
            "hash": {"text": text.text_sha256, "total_tokens": text.total_tokens},
        },
        "evaluation_windows": {
            "preview": _windows(evidence.subject.preview, evidence.baseline.preview),
            "final": _windows(evidence.subject.final, evidence.baseline.final),
        },
        "invariants": {
            "baseline": baseline_structure.summary(),
            "subject": subject_structure.summary(),
            "violations": [violation.to_json() for violation in evidence.violations],
        },
        **evidence.guards,
        "structure": {"parameters_changed": list(evidence.touched), "edit_details": evidence.details, **changes},
        "resolved_policy": policy.thresholds,
        "policy_provenance": {
            "tier": policy.tier,
            "policy_version": policy.version,
            "overrides": policy.overrides,
            "policy_digest": policy.digest,
        },
        "baseline_ref": {"model_id": request.model.id, "tokenizer_hash": evidence.model.tokenizer_hash},
        "provenance": {
            "model_digest": {side: digest for side, digest in digests.items() if digest is not None},
            "edit": {**edit, "sha256": sha256_of(edit)},
            "tool": {"name": "pytest-proofpack", "version": __version__},
        },
        "plugins": {"adapters": ["hf_causal"], "edits": [request.edit_name], "guards": list(GUARD_EVIDENCE)},
        "artifacts": {},
        "volatile": evidence.volatile,
    }


def _windows(subject: WindowLosses, baseline: WindowLosses) -> JsonObject:
    return {
        "window_ids": list(subject.ids),
        "token_counts": list(subject.token_counts),
        "logloss": [loss if is_finite([loss]) else None for loss in subject.losses],
        "baseline_logloss": list(baseline.losses),
    }


def _merge(base: JsonObject, update: JsonObject) -> JsonObject:
    merged = dict(base)
    for key, value in update.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
