"""From a certificate's evidence to everything that follows from it: metrics, gates, outcome.

The same function runs when a certificate is made and when a stranger verifies it. What it returns is compared field
by field there, so no number in a certificate stands on its maker's word if it can be derived from the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.invariants import severity_of, status_of
from pytest_proofpack.jsonio import JsonObject, sha256_of
from pytest_proofpack.paired import is_finite, paired_metric, perplexity, tail_quantiles
from pytest_proofpack.policy import policy_digest

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
"""Validation flags that must be true, where evaluated, for a certificate to pass."""

_MAX_EXPONENT = 700.0
_STRUCTURAL_KINDS = frozenset(
    {"config", "config_unknown", "dtype", "missing_tensors", "norm_modules", "shape", "tying", "unexpected_tensors"}
)


def derive(evidence: JsonObject) -> JsonObject:
    """Compute every derived block of a certificate from its evidence blocks.

    Args:
        evidence: a certificate, or its evidence alone: ``evaluation_windows``, ``dataset``, ``invariants``
            (``violations``), ``guard_overhead``, ``resolved_policy`` and ``policy_provenance`` are read.

    Returns:
        The blocks ``primary_metric``, ``primary_metric_tail``, ``baseline_ref``, ``dataset``, ``invariants``,
        ``guard_overhead``, ``validation``, ``policy_digest``, ``provenance`` and ``outcome``; of blocks that mix
        evidence and derived values, only the derived keys.

    Raises:
        FormatError: the evidence is incomplete or contradicts itself.
    """
    try:
        policy = evidence["resolved_policy"]
        metric, hysteresis = _primary_metric(evidence, policy)
        tail = _tail(evidence, policy["primary_metric_tail"])
        invariants = _invariants(evidence["invariants"], policy["invariants"])
        overhead = _overhead(evidence["guard_overhead"], policy["guard_overhead"])
        windows = _window_facts(evidence, policy["primary_metric"])
        digest = _policy_digest(evidence)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise FormatError(f"the evidence is incomplete or malformed ({type(error).__name__}: {error})") from error
    validation = {
        "primary_metric_acceptable": metric.pop("acceptable"),
        "primary_metric_tail_acceptable": tail["passed"],
        "preview_final_drift_acceptable": metric.pop("drift_acceptable"),
        "invariants_pass": invariants["status"] != "fail",
        "hysteresis_applied": hysteresis,
    }
    if overhead["evaluated"]:
        validation["guard_overhead_acceptable"] = overhead["passed"]
    baseline = metric.pop("baseline")
    return {
        "primary_metric": metric,
        "primary_metric_tail": tail,
        "baseline_ref": {"primary_metric": baseline},
        "invariants": invariants,
        "guard_overhead": overhead,
        "validation": validation,
        "policy_digest": digest,
        "outcome": _outcome(validation, metric, tail, invariants),
        **windows,
    }


def _losses(windows: Mapping[str, Any], key: str) -> list[float]:
    """Read a list of losses; a null stands for a value that was not finite."""
    values = windows[key]
    if not isinstance(values, list) or len(values) != len(windows["window_ids"]):
        raise FormatError(f"evaluation_windows: {key} must hold one number per window")
    return [math.nan if value is None else float(value) for value in values]


def _primary_metric(evidence: JsonObject, policy: JsonObject) -> tuple[JsonObject, bool]:
    """Return the primary_metric block (with its two gates and the baseline's block still inside) and hysteresis."""
    preview, final = evidence["evaluation_windows"]["preview"], evidence["evaluation_windows"]["final"]
    rules = policy["primary_metric"]
    bootstrap = evidence["dataset"]["windows"]["stats"]["bootstrap"]
    baseline_final, baseline_preview = _losses(final, "baseline_logloss"), _losses(preview, "baseline_logloss")
    subject_final, subject_preview = _losses(final, "logloss"), _losses(preview, "logloss")
    counts, preview_counts = final["token_counts"], preview["token_counts"]
    if not (is_finite(baseline_final) and is_finite(baseline_preview)):
        raise FormatError("evaluation_windows: the baseline's losses must be finite")
    baseline: JsonObject = {
        "kind": "ppl_causal",
        "preview": perplexity(baseline_preview, preview_counts),
        "final": perplexity(baseline_final, counts),
    }
    tokens = int(sum(counts) + sum(preview_counts))
    drift = baseline["final"] / baseline["preview"]
    block: JsonObject = {
        "kind": "ppl_causal",
        "unit": "ppl",
        "direction": "lower",
        "aggregation_scope": "token",
        "paired": True,
        "gating_basis": "upper",
        "counts_source": "measured",
        "estimated": False,
        "reps": bootstrap["replicates"],
        "ci_level": 1.0 - bootstrap["alpha"],
        "tokens": tokens,
        "drift_band": {"min": drift * policy["drift"]["min"], "max": drift * policy["drift"]["max"]},
        "baseline": baseline,
    }
    if not (is_finite(subject_final) and is_finite(subject_preview)):
        reason = {"invalid": True, "degraded": True, "degraded_reason": "non_finite_loss"}
        return {**block, **reason, "acceptable": False, "drift_acceptable": False}, False
    metric = paired_metric(
        subject_final,
        baseline_final,
        counts,
        replicates=bootstrap["replicates"],
        alpha=bootstrap["alpha"],
        seed=bootstrap["seed"],
    )
    interval = [metric.interval.low, metric.interval.high]
    display = [math.exp(min(bound, _MAX_EXPONENT)) for bound in interval]
    acceptable, hysteresis = _within(max(metric.ratio, display[1]), rules["ratio_limit"], rules["hysteresis"])
    enough = tokens >= rules["min_tokens"] and bootstrap["replicates"] >= rules["replicates"]
    subject_preview_perplexity = perplexity(subject_preview, preview_counts)
    relative_drift = (metric.subject_perplexity / subject_preview_perplexity) / drift
    block |= {
        "preview": subject_preview_perplexity,
        "final": metric.subject_perplexity,
        "ratio_vs_baseline": metric.ratio,
        "ci": interval,
        "display_ci": display,
        "relative_drift": relative_drift,
        "invalid": False,
        "degraded": False,
        "enough_evidence": enough,
        "suspicious_improvement": metric.ratio < rules["improvement_warn_below"],
        "acceptable": acceptable and enough,
        "drift_acceptable": policy["drift"]["min"] <= relative_drift <= policy["drift"]["max"],
    }
    return block, hysteresis and enough


def _within(value: float, limit: float, hysteresis: float) -> tuple[bool, bool]:
    """Return whether ``value`` is acceptable, and whether only the hysteresis makes it so."""
    return value <= limit + hysteresis, limit < value <= limit + hysteresis


def _tail(evidence: JsonObject, rules: JsonObject) -> JsonObject:
    final = evidence["evaluation_windows"]["final"]
    subject, baseline = _losses(final, "logloss"), _losses(final, "baseline_logloss")
    if not is_finite(subject):
        return {"evaluated": False, "reason": "non_finite_loss", "mode": rules["mode"], "passed": False, "warned": True}
    quantiles = tail_quantiles(subject, baseline)
    over = quantiles[f"q{round(rules['quantile'] * 100)}"] > rules["quantile_max"]
    return {
        "evaluated": True,
        "mode": rules["mode"],
        "quantiles": quantiles,
        "limit": rules["quantile_max"],
        "warned": over,
        "passed": not (over and rules["mode"] == "fail"),
    }


def _invariants(block: JsonObject, rules: JsonObject) -> JsonObject:
    severities = [severity_of(violation["kind"], rules) for violation in block["violations"]]
    if [violation["severity"] for violation in block["violations"]] != severities:
        raise FormatError("invariants: a violation carries another severity than the policy gives its kind")
    baseline, subject = block["baseline"], block["subject"]
    kinds = {violation["kind"] for violation in block["violations"]}
    for what, differs, explained in (
        ("the count of non-finite values", subject["non_finite"] > 0, "non_finite" in kinds),
        ("the vocabulary sizes", subject["vocabulary"] != baseline["vocabulary"], "vocabulary" in kinds),
        ("the digests of the structures", subject["sha256"] != baseline["sha256"], bool(kinds & _STRUCTURAL_KINDS)),
    ):
        if differs != explained:
            raise FormatError(f"invariants: the list of violations contradicts {what}")
    return {
        "evaluated": True,
        "status": status_of(severities),
        "fatal_violations": sum(severity == "fatal" for severity in severities),
        "warning_violations": sum(severity == "warning" for severity in severities),
    }


def _overhead(block: JsonObject, rules: JsonObject) -> JsonObject:
    if not block["evaluated"]:
        return {"evaluated": False}
    ratio = block["guarded_perplexity"] / block["bare_perplexity"]
    return {"evaluated": True, "overhead_ratio": ratio, "passed": abs(ratio - 1.0) <= rules["ratio_tolerance"]}


def _window_facts(evidence: JsonObject, rules: JsonObject) -> JsonObject:
    preview, final = (evidence["evaluation_windows"][name]["window_ids"] for name in ("preview", "final"))
    everything = [*preview, *final]
    bootstrap = evidence["dataset"]["windows"]["stats"]["bootstrap"]
    if bootstrap["method"] != "bca" or bootstrap["alpha"] != rules["alpha"]:
        raise FormatError("dataset.windows.stats.bootstrap: method and alpha must be those of the policy")
    if bootstrap["seed"] != evidence["dataset"]["windows"]["seed"]:
        raise FormatError("dataset.windows.stats.bootstrap: the seed must be that of the windows")
    return {
        "dataset": {
            "windows": {
                "preview": len(preview),
                "final": len(final),
                "stats": {
                    "paired_windows": len(preview),
                    "window_match_fraction": 1.0,
                    "window_overlap_fraction": 1.0 - len(set(everything)) / len(everything),
                    "window_pairing_reason": None,
                    "coverage": {"preview": {"used": len(preview)}, "final": {"used": len(final)}},
                },
            },
            "hash": {"preview": sha256_of(preview), "final": sha256_of(final)},
        },
        "provenance": {"provider_digest": {"ids_sha256": sha256_of(everything)}},
    }


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


def _outcome(
    validation: Mapping[str, bool], metric: JsonObject, tail: JsonObject, invariants: JsonObject
) -> JsonObject:
    failed = [gate for gate in GATES if validation.get(gate) is False]
    warnings = [
        name
        for name, raised in (
            ("primary_metric_tail", tail["warned"]),
            ("suspicious_improvement", metric.get("suspicious_improvement", False)),
            ("invariants", invariants["status"] == "warn"),
            ("hysteresis_applied", validation["hysteresis_applied"]),
        )
        if raised
    ]
    return {"passed": not failed, "failed_gates": failed, "warnings": warnings}


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
