"""The certificate: build it from evidence. :mod:`pytest_proofpack.certificate.check` recomputes every number in it.

A certificate is its evidence plus what :func:`~pytest_proofpack.certificate.derive.derive` makes of it. Everything
outside of the ``volatile`` block is deterministic; ``certificate_digest`` is over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_proofpack import __version__
from pytest_proofpack.certificate.bootstrap import is_finite
from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.certificate.foreign import foreign_blocks
from pytest_proofpack.certificate.formats import CURRENT, SCHEMA_VERSION, finish_certificate
from pytest_proofpack.certificate.kept_text import KEY
from pytest_proofpack.certificate.policy import Policy
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json, sha256_of
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.registry import GUARDS

if TYPE_CHECKING:
    from pytest_proofpack.guards.changes import ModelChanges
    from pytest_proofpack.guards.invariants import Violation
    from pytest_proofpack.guards.structure import StructureMeasure
    from pytest_proofpack.plan.records import CertificateRequest, TextFacts, WindowLosses, WindowPlan, WindowSample


@dataclass(frozen=True)
class ModelFacts:
    """How the models were run: what a certificate records under ``meta`` and ``provenance``.

    ``baseline_digest`` is the OpenSSF root of the baseline's directory, ``subject_digest`` that of the subject's if it
    was loaded from one. ``inputs`` says how their files were read: the implementation of attention of both, where the
    tokens are from, and warnings.
    """

    revision: str | None
    device: str
    dtype: str
    tokenizer_hash: str
    determinism: Mapping[str, str]
    baseline_digest: str
    inputs: JsonObject
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
        guards: evidence of the package's other guards, by name.
        foreign: evidence of the guards of extensions, by name.
        extensions: name, version and SHA-256 of every extension that was loaded.
        kept_text: text of the windows that lost most, see :mod:`pytest_proofpack.certificate.kept_text`; empty unless
            it was asked for.
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
    baseline: WindowSample
    subject: WindowSample
    structures: tuple[StructureMeasure, StructureMeasure]
    violations: tuple[Violation, ...]
    guards: Mapping[str, JsonObject]
    model: ModelFacts
    touched: tuple[str, ...]
    details: JsonObject
    changes: ModelChanges | None = None
    volatile: JsonObject = field(default_factory=dict)
    foreign: Mapping[str, JsonObject] = field(default_factory=dict)
    extensions: Sequence[JsonObject] = ()
    kept_text: Sequence[JsonObject] = ()


def build_certificate(evidence: Evidence) -> JsonObject:
    """Return the certificate for ``evidence``.

    Raises:
        EvaluationError: baseline and subject did not see the same windows, the text gave one window twice, or the
            baseline's loss is not finite.
    """
    _require_paired(evidence)
    _require_distinct(evidence)
    # Derived from what a reader will read: the order of keys, say, does not survive writing.
    document = parse_json(compact_json(_evidence_blocks(evidence)).encode(), evidence.request.id)
    return finish_certificate(merge(document, derive(document)))


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
    request, policy = evidence.request, evidence.policy
    baseline_structure, subject_structure = evidence.structures
    changes = {} if evidence.changes is None else {"changes": evidence.changes.to_json()}
    return {
        "schema_version": SCHEMA_VERSION,
        "certificate_format": CURRENT.number,
        "edit_name": request.edit_name,
        "scenario": {"id": request.scenario.id, "category": request.scenario.category.value, "run": request.run},
        "meta": _meta(evidence),
        "dataset": _dataset(evidence),
        "evaluation_windows": {
            "preview": _windows(evidence.subject.preview, evidence.baseline.preview),
            "final": _windows(evidence.subject.final, evidence.baseline.final),
        },
        "invariants": {
            "baseline": baseline_structure.summary(),
            "subject": subject_structure.summary(baseline_structure),
            "violations": [violation.to_json() for violation in evidence.violations],
            **baseline_structure.inventory.to_json(),
        },
        **evidence.guards,
        **foreign_blocks(evidence.foreign),
        "structure": {"parameters_changed": list(evidence.touched), "edit_details": evidence.details, **changes},
        "resolved_policy": policy.thresholds,
        "policy_provenance": {
            "tier": policy.tier,
            "policy_version": policy.version,
            "overrides": policy.overrides,
            "policy_digest": policy.digest,
        },
        "baseline_ref": {"model_id": request.model.id, "tokenizer_hash": evidence.model.tokenizer_hash},
        "provenance": _provenance(evidence),
        "plugins": {
            "adapters": ["hf_causal"],
            "edits": [request.edit_name],
            "guards": [*GUARDS.builtin, *evidence.foreign],
        },
        "artifacts": {},
        "volatile": evidence.volatile,
    }


def _meta(evidence: Evidence) -> JsonObject:
    model, seed = evidence.model, _seed(evidence)
    return {
        "model_id": evidence.request.model.id,
        "revision": model.revision,
        "adapter": "hf_causal",
        "device": model.device,
        "dtype": model.dtype,
        "suite": evidence.suite,
        "profile": evidence.profile,
        "seeds": {"windows": seed, "bootstrap": seed, "edit": evidence.plan.seed},
        "tokenizer_hash": model.tokenizer_hash,
        "determinism": dict(model.determinism),
        "inputs": model.inputs,
        **({"trust_remote_code": True} if evidence.request.model.trust_remote_code else {}),
    }


def _dataset(evidence: Evidence) -> JsonObject:
    text, plan, seed = evidence.text, evidence.plan, _seed(evidence)
    rules = evidence.policy.section("primary_metric")
    bootstrap = {"replicates": rules["replicates"], "alpha": rules["alpha"], "seed": seed, "method": "bca"}
    return {
        "provider": text.provider,
        "split": text.split,
        **({"source": dict(text.source)} if text.source else {}),
        **({"options": dict(text.options)} if text.options else {}),
        **({KEY: list(evidence.kept_text)} if evidence.kept_text else {}),
        "seq_len": plan.seq_len,
        "stride": plan.seq_len,
        "documents": text.documents,
        "windows": {"seed": seed, "available": text.available_windows, "stats": {"bootstrap": bootstrap}},
        "hash": {"text": text.text_sha256, "total_tokens": text.total_tokens, "total_bytes": text.total_bytes},
    }


def _provenance(evidence: Evidence) -> JsonObject:
    edit = evidence.request.edit_facts
    digests = {"baseline": evidence.model.baseline_digest, "subject": evidence.model.subject_digest}
    return {
        "model_digest": {side: digest for side, digest in digests.items() if digest is not None},
        "edit": {**edit, "sha256": sha256_of(edit)},
        "tool": {"name": "pytest-proofpack", "version": __version__},
        **({"extensions": list(evidence.extensions)} if evidence.extensions else {}),
    }


def _seed(evidence: Evidence) -> int:
    """Return the seed of the draw: run r of a scenario draws with the plan's seed + r."""
    return evidence.plan.seed + evidence.request.run


def _windows(subject: WindowLosses, baseline: WindowLosses) -> JsonObject:
    return {
        "window_ids": list(subject.ids),
        "token_counts": list(subject.token_counts),
        "logloss": [loss if is_finite([loss]) else None for loss in subject.losses],
        "baseline_logloss": list(baseline.losses),
    }


def merge(base: JsonObject, update: JsonObject) -> JsonObject:
    """Return a document with what was derived of it in its place, at every depth."""
    merged = dict(base)
    for key, value in update.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
