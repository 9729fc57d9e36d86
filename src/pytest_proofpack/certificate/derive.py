"""From a certificate's evidence to everything that follows from it: metrics, gates, outcome.

The same function runs when a certificate is made and when a stranger verifies it. What it returns is compared field
by field there, so no number in a certificate stands on its maker's word if it can be derived from the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pytest_proofpack.certificate.metric import EvaluatedWindows, derive_metric, derive_tail, read_windows
from pytest_proofpack.certificate.policy import policy_digest
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.changes import derive_changes
from pytest_proofpack.guards.distribution import derive_distribution
from pytest_proofpack.guards.invariants import derive_invariants
from pytest_proofpack.guards.moe import derive_moe
from pytest_proofpack.guards.overhead import derive_overhead
from pytest_proofpack.guards.rmt import derive_rmt
from pytest_proofpack.guards.spectral import derive_spectral
from pytest_proofpack.guards.variance import derive_variance
from pytest_proofpack.plan.edit_kinds import NOOP

GATES = (
    "primary_metric_acceptable",
    "primary_metric_tail_acceptable",
    "preview_final_drift_acceptable",
    "guard_overhead_acceptable",
    "invariants_pass",
    "spectral_stable",
    "rmt_stable",
    "moe_identity_ok",
)
"""Validation flags that must be true for a certificate to pass. ``distribution`` gates too, outside of them."""

SIGNALS = {
    "metric": ("primary_metric_acceptable", "preview_final_drift_acceptable"),
    "spectral": ("spectral_stable",),
    "rmt": ("rmt_stable",),
    "invariants": ("invariants_pass", "moe_identity_ok"),
    "distribution": ("distribution",),
}
"""Five ways of seeing an edit that do not depend on each other, and the gates that each one speaks through."""


GUARD_EVIDENCE: Mapping[str, frozenset[str]] = {
    "invariants": frozenset({"baseline", "subject", "violations"}),
    "spectral": frozenset(
        {"measurement_contract", "baseline_measurement_contract_hash", "matrices", "vectors", "added", "reshaped"}
    ),
    "rmt": frozenset(
        {
            "measurement_contract", "baseline_measurement_contract_hash", "windows_sha256", "branches",
            "null_log_ratios",
        }
    ),
    "variance": frozenset({"branches", "calibration"}),
    "moe": frozenset({"routers"}),
    "distribution": frozenset({"measurement", "final", "kl_q99", "kl_max", "problem"}),
    "guard_overhead": frozenset({"mode", "bare_logloss"}),
}  # fmt: skip
"""The guards' blocks, and the keys of each that hold evidence; every other key is derived from it."""

STRUCTURE_EVIDENCE = frozenset({"parameters_changed", "edit_details", "changes"})
"""The keys of ``structure`` that hold evidence; every other key is derived."""


def derive(evidence: JsonObject) -> JsonObject:
    """Compute every derived block of a certificate from its evidence blocks.

    Args:
        evidence: a certificate, or its evidence alone: ``scenario``, ``meta``, ``evaluation_windows``, ``dataset``,
            the guards' blocks, ``structure``, ``resolved_policy``, ``policy_provenance`` and ``provenance`` are read.

    Returns:
        The derived blocks; of blocks that mix evidence and derived values, only the derived keys.

    Raises:
        FormatError: the evidence is incomplete or contradicts itself.
    """
    try:
        policy = evidence["resolved_policy"]
        preview, final = (read_windows(evidence, side) for side in ("preview", "final"))
        metric, hysteresis = derive_metric(preview, final, evidence["dataset"]["windows"]["stats"], policy)
        tail = derive_tail(final, policy["primary_metric_tail"])
        guards = _guards(evidence, policy, preview, final)
        facts = _facts(evidence, preview, final)
        structure = _structure(evidence)
        digest = _policy_digest(evidence)
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
        raise FormatError(f"the evidence is incomplete or malformed ({type(error).__name__}: {error})") from error
    validation = {
        "primary_metric_acceptable": metric.pop("acceptable"),
        "primary_metric_tail_acceptable": tail["passed"],
        "preview_final_drift_acceptable": metric.pop("drift_acceptable"),
        "guard_overhead_acceptable": guards["guard_overhead"]["passed"],
        "invariants_pass": guards["invariants"]["status"] != "fail",
        "spectral_stable": guards["spectral"]["stable"],
        "rmt_stable": guards["rmt"]["stable"] and guards["variance"]["passed"],
        "moe_observed": guards["moe"]["observed"],
        "moe_identity_ok": guards["moe"]["identity_ok"],
        "hysteresis_applied": hysteresis,
    }
    baseline = metric.pop("baseline")
    return {
        "primary_metric": metric,
        "primary_metric_tail": tail,
        "baseline_ref": {**facts.pop("baseline_ref"), "primary_metric": baseline},
        **guards,
        "validation": validation,
        "policy_digest": digest,
        "outcome": _outcome(validation, metric, tail, guards),
        "structure": structure,
        **facts,
    }


def _guards(evidence: JsonObject, policy: JsonObject, preview: EvaluatedWindows, final: EvaluatedWindows) -> JsonObject:
    """Return the derived keys of every guard's block. All guards are needed: one that is left out fails here."""
    return {
        "invariants": derive_invariants(evidence["invariants"], policy["invariants"]),
        "spectral": derive_spectral(evidence["spectral"], policy["spectral"]),
        "rmt": derive_rmt(evidence["rmt"], policy["rmt"]),
        "variance": derive_variance(evidence["variance"], policy["variance"]),
        "moe": derive_moe(evidence["moe"]),
        "distribution": derive_distribution(evidence["distribution"], policy["distribution"], final.counts),
        "guard_overhead": derive_overhead(
            evidence["guard_overhead"], policy["guard_overhead"], preview.subject, preview.counts
        ),
    }


def _facts(evidence: JsonObject, preview: EvaluatedWindows, final: EvaluatedWindows) -> JsonObject:
    """Return what follows about windows, seeds, edit and tokenizer; no seed is free to be chosen for its outcome."""
    ids = [*preview.ids, *final.ids]
    if len(set(ids)) != len(ids):
        raise FormatError("evaluation_windows: a window stands there twice, so there is less evidence than it seems")
    if len(ids) > evidence["dataset"]["windows"]["available"]:
        raise FormatError("evaluation_windows: more windows than dataset.windows.available")
    meta, edit = evidence["meta"], evidence["provenance"]["edit"]
    edit_digest = sha256_of({key: value for key, value in edit.items() if key != "sha256"})
    seed = meta["seeds"]["edit"] + evidence["scenario"]["run"]
    rules = evidence["resolved_policy"]["primary_metric"]
    return {
        "run_id": _run_id(evidence),
        "dataset": {
            "stride": evidence["dataset"]["seq_len"],
            "windows": {
                "preview": len(preview.ids),
                "final": len(final.ids),
                "seed": seed,
                "stats": {
                    "paired_windows": len(preview.ids),
                    "window_match_fraction": 1.0,
                    "window_overlap_fraction": 0.0,
                    "window_pairing_reason": None,
                    "coverage": {"preview": {"used": len(preview.ids)}, "final": {"used": len(final.ids)}},
                    "bootstrap": {
                        "replicates": rules["replicates"],
                        "alpha": rules["alpha"],
                        "seed": seed,
                        "method": "bca",
                    },
                },
            },
            "hash": {"preview": sha256_of(preview.ids), "final": sha256_of(final.ids)},
        },
        "meta": {"seeds": {"windows": seed, "bootstrap": seed}},
        "edit_name": edit["type"],
        "baseline_ref": {"model_id": meta["model_id"], "tokenizer_hash": meta["tokenizer_hash"]},
        "provenance": {
            "provider_digest": {"ids_sha256": sha256_of(ids)},
            "edit": {"sha256": edit_digest},
            "model_digest": {"subject": _subject_digest(evidence, edit_digest)},
        },
    }


def _run_id(evidence: JsonObject) -> str:
    """Return the id of what was certified: suite, model, scenario, run and policy."""
    meta, scenario = evidence["meta"], evidence["scenario"]
    digests = evidence["provenance"]["model_digest"]["baseline"], evidence["policy_provenance"]["policy_digest"]
    return sha256_of([meta["suite"], meta["model_id"], scenario["id"], scenario["run"], *digests])[:16]


def _subject_digest(evidence: JsonObject, edit_digest: str) -> str:
    """Return the subject's digest: of a model edited in memory over its baseline's, the edit, and the edit's seed.

    Such a model is never a directory, and hashing its weights would take longer than measuring them. A subject that
    was loaded has a directory, whose digest is evidence.

    Raises:
        FormatError: a loaded subject is called ``noop`` though its files are not the baseline's, or the reverse.
    """
    digests, edit = evidence["provenance"]["model_digest"], evidence["provenance"]["edit"]
    baseline: str = digests["baseline"]
    if is_loaded(evidence):
        subject: str = digests["subject"]
        if (subject == baseline) != (edit["type"] == NOOP):
            raise FormatError(f"provenance.edit.type: {edit['type']!r} contradicts the digests of the models")
        return subject
    if edit["type"] == NOOP:
        return baseline
    return sha256_of({"baseline": baseline, "edit": edit_digest, "seed": evidence["meta"]["seeds"]["edit"]})


def is_loaded(certificate: JsonObject) -> bool:
    """Tell whether the subject was a checkpoint of its own, and not edited in memory.

    Raises:
        FormatError: category of the scenario and source of the edit contradict each other.
    """
    by_scenario: bool = certificate["scenario"]["category"] == "byoe"
    if by_scenario != (certificate["provenance"]["edit"].get("source") == "byoe"):
        raise FormatError("provenance.edit.source: contradicts the category of the scenario")
    return by_scenario


def _structure(evidence: JsonObject) -> JsonObject:
    """Return what follows about what changed; of a model edited in memory, the edit itself says it.

    Raises:
        FormatError: changes that were never measured, or not recorded; or see :func:`derive_changes`.
    """
    recorded = evidence["structure"].get("changes")
    if is_loaded(evidence) != (recorded is not None):
        raise FormatError("structure.changes: belongs to a subject that was loaded, and to no other")
    if recorded is None:
        return {}
    meta, baseline = evidence["meta"], evidence["invariants"]["baseline"]
    if baseline.get("tokenizer") != meta["tokenizer_hash"]:
        raise FormatError("invariants.baseline.tokenizer: is not meta.tokenizer_hash")
    return derive_changes(recorded, evidence["invariants"], evidence["spectral"])


def _policy_digest(evidence: JsonObject) -> JsonObject:
    policy, provenance = evidence["resolved_policy"], evidence["policy_provenance"]
    return {
        "policy_version": provenance["policy_version"],
        "tier_policy_name": provenance["tier"],
        "thresholds_hash": policy_digest(policy, provenance["overrides"]),
        "hysteresis": {"ratio": policy["primary_metric"]["hysteresis"]},
        "min_effective": policy["primary_metric"]["min_tokens"],
        "changed": bool(provenance["overrides"]),
    }


def _outcome(validation: Mapping[str, bool], metric: JsonObject, tail: JsonObject, guards: JsonObject) -> JsonObject:
    failed = [gate for gate in GATES if not validation[gate]]
    if not guards["distribution"]["passed"]:
        failed.append("distribution")
    raised = {
        "primary_metric_tail": tail["warned"] and tail["passed"],
        "suspicious_improvement": metric.get("suspicious_improvement", False),
        "invariants": guards["invariants"]["status"] == "warn",
        "spectral": guards["spectral"]["stable"] and bool(guards["spectral"]["warnings"]),
        "variance": guards["variance"]["status"] == "warn",
        "distribution": guards["distribution"]["status"] == "warn",
        "hysteresis_applied": validation["hysteresis_applied"],
    }
    return {
        "passed": not failed,
        "failed_gates": failed,
        "warnings": [name for name, warned in raised.items() if warned],
        "signals": [name for name, gates in SIGNALS.items() if not set(gates).isdisjoint(failed)],
    }


def differences(recorded: object, derived: object, path: str = "") -> list[str]:
    """Name every field in which ``recorded`` does not hold what was derived, as dotted paths.

    ``recorded`` may hold more than ``derived`` (its evidence). Numbers agree within 1e-6 relative: a resampling
    interval may differ in its last digits between numerical libraries, a gate may not.
    """
    if isinstance(derived, Mapping):
        if not isinstance(recorded, Mapping):
            return [f"{path or 'certificate'}: expected an object"]
        return [
            finding
            for key, value in derived.items()
            for finding in (
                differences(recorded[key], value, f"{path}.{key}" if path else key)
                if key in recorded
                else [f"{path}.{key}: missing, recomputed {value!r}".lstrip(".")]
            )
        ]
    if isinstance(derived, list) and isinstance(recorded, Sequence) and not isinstance(recorded, str):
        if len(derived) != len(recorded):
            return [f"{path}: recorded {recorded!r}, recomputed {derived!r}"]
        pairs = enumerate(zip(recorded, derived, strict=True))
        return [finding for index, (ours, theirs) in pairs for finding in differences(ours, theirs, f"{path}[{index}]")]
    return [] if _equal(recorded, derived) else [f"{path}: recorded {recorded!r}, recomputed {derived!r}"]


def _equal(recorded: object, derived: object) -> bool:
    if isinstance(recorded, bool) or isinstance(derived, bool):
        return recorded is derived
    if isinstance(recorded, int | float) and isinstance(derived, int | float):
        return math.isclose(recorded, derived, rel_tol=1e-6, abs_tol=1e-9)
    return recorded == derived
