"""From a certificate's evidence to everything that follows from it: metrics, gates, outcome.

The same function runs when a certificate is made and when a stranger verifies it. What it returns is compared field
by field there, so no number in a certificate stands on its maker's word if it can be derived from the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
_MAX_PERPLEXITY = 1e130
"""Quotients of quotients of perplexities up to this one stay within the range of floats."""
_MIN_LOSS = -1e-6  # a mean negative log-likelihood is not negative, but for rounding
_MAX_LOSS = 1e39  # above the largest float32; its cube, which the interval needs, is still a float
_MAX_RESAMPLES = 100_000_000
"""Upper bound on windows x replicates, and on windows squared: what the bootstrap holds in memory."""
_NOT_JUDGED = ("spectral", "rmt", "variance", "distribution", "moe")
"""Blocks that this version does not measure: a certificate that says it did claims what nothing supports."""
_STRUCTURAL_KINDS = frozenset(
    {"config", "config_unknown", "dtype", "missing_tensors", "norm_modules", "shape", "tying", "unexpected_tensors"}
)


def derive(evidence: JsonObject) -> JsonObject:
    """Compute every derived block of a certificate from its evidence blocks.

    Args:
        evidence: a certificate, or its evidence alone: ``scenario``, ``meta``, ``evaluation_windows``, ``dataset``,
            ``invariants`` (``violations``), ``guard_overhead``, ``resolved_policy``, ``policy_provenance`` and
            ``provenance.edit`` are read.

    Returns:
        The blocks ``primary_metric``, ``primary_metric_tail``, ``baseline_ref``, ``dataset``, ``meta``,
        ``edit_name``, ``invariants``, ``guard_overhead``, the guards that are not evaluated, ``validation``,
        ``policy_digest``, ``provenance`` and ``outcome``; of blocks that mix evidence and derived values, only the
        derived keys.

    Raises:
        FormatError: the evidence is incomplete or contradicts itself.
    """
    try:
        policy = evidence["resolved_policy"]
        preview, final = (_read_windows(evidence, side) for side in ("preview", "final"))
        metric, hysteresis = _primary_metric(preview, final, evidence["dataset"]["windows"]["stats"], policy)
        tail = _tail(final, policy["primary_metric_tail"])
        invariants = _invariants(evidence["invariants"], policy["invariants"])
        overhead = _overhead(evidence["guard_overhead"], policy["guard_overhead"])
        facts = _facts(evidence, preview, final)
        digest = _policy_digest(evidence)
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
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
        "baseline_ref": {**facts.pop("baseline_ref"), "primary_metric": baseline},
        "invariants": invariants,
        "guard_overhead": overhead,
        "validation": validation,
        "policy_digest": digest,
        "outcome": _outcome(validation, metric, tail, invariants),
        **{name: {"evaluated": False} for name in _NOT_JUDGED},
        **facts,
    }


class _Windows(NamedTuple):
    """One side, ``preview`` or ``final``, of a certificate's windows; losses that were not finite are NaN."""

    ids: list[str]
    counts: list[int]
    subject: list[float]
    baseline: list[float]

    def subject_perplexity(self) -> float:
        return perplexity(self.subject, self.counts)

    def baseline_perplexity(self) -> float:
        return perplexity(self.baseline, self.counts)


def _read_windows(evidence: JsonObject, side: str) -> _Windows:
    """Read one side's windows; the schema says nothing about the elements of these lists."""
    block, where = evidence["evaluation_windows"][side], f"evaluation_windows.{side}"
    columns = [block[key] for key in ("window_ids", "token_counts", "logloss", "baseline_logloss")]
    if not all(isinstance(column, list) and column and len(column) == len(columns[0]) for column in columns):
        raise FormatError(f"{where}: expected four lists of one length, with one entry per window")
    ids, counts, subject, baseline = columns
    if not all(isinstance(window, str) for window in ids):
        raise FormatError(f"{where}.window_ids: expected strings")
    scored = evidence["dataset"]["seq_len"] - 1
    if not all(type(count) is int and 1 <= count <= scored for count in counts):
        raise FormatError(f"{where}.token_counts: expected whole numbers from 1 to {scored}, the length less one")
    windows = _Windows(
        ids, counts, _losses(subject, f"{where}.logloss"), _losses(baseline, f"{where}.baseline_logloss")
    )
    if not (is_finite(windows.baseline) and windows.baseline_perplexity() <= _MAX_PERPLEXITY):
        raise FormatError(f"{where}.baseline_logloss: the baseline's perplexity must be finite")
    return windows


def _losses(values: list[object], where: str) -> list[float]:
    """Read losses; a null stands for a value that was not finite."""
    losses = []
    for value in values:
        if value is None:
            losses.append(math.nan)
        elif isinstance(value, int | float) and not isinstance(value, bool) and _MIN_LOSS <= value <= _MAX_LOSS:
            losses.append(float(value))
        else:
            raise FormatError(f"{where}: expected losses in nats, at least 0, or null")
    return losses


def _degraded_reason(preview: _Windows, final: _Windows) -> str | None:
    """Say why the subject has no perplexity; None if it has one."""
    if not is_finite([*preview.subject, *final.subject]):
        return "non_finite_loss"
    highest = max(preview.subject_perplexity(), final.subject_perplexity())
    return "perplexity_overflow" if highest > _MAX_PERPLEXITY else None


def _primary_metric(
    preview: _Windows, final: _Windows, stats: JsonObject, policy: JsonObject
) -> tuple[JsonObject, bool]:
    """Return the primary_metric block (with its two gates and the baseline's block still inside) and hysteresis."""
    rules, bootstrap = policy["primary_metric"], stats["bootstrap"]
    baseline: JsonObject = {
        "kind": "ppl_causal",
        "preview": preview.baseline_perplexity(),
        "final": final.baseline_perplexity(),
    }
    tokens = sum(final.counts) + sum(preview.counts)
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
    if reason := _degraded_reason(preview, final):
        state = {"invalid": True, "degraded": True, "degraded_reason": reason}
        return {**block, **state, "acceptable": False, "drift_acceptable": False}, False
    if len(final.ids) * max(len(final.ids), bootstrap["replicates"]) > _MAX_RESAMPLES:
        raise FormatError(f"{bootstrap['replicates']} resamples of {len(final.ids)} windows are more than is allowed")
    metric = paired_metric(
        final.subject,
        final.baseline,
        final.counts,
        replicates=bootstrap["replicates"],
        alpha=bootstrap["alpha"],
        seed=bootstrap["seed"],
    )
    interval = [metric.interval.low, metric.interval.high]
    display = [math.exp(min(bound, _MAX_EXPONENT)) for bound in interval]
    acceptable, hysteresis = _within(max(metric.ratio, display[1]), rules["ratio_limit"], rules["hysteresis"])
    enough = tokens >= rules["min_tokens"] and bootstrap["replicates"] >= rules["replicates"]
    relative_drift = (metric.subject_perplexity / preview.subject_perplexity()) / drift
    block |= {
        "preview": preview.subject_perplexity(),
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


def _tail(final: _Windows, rules: JsonObject) -> JsonObject:
    if not is_finite(final.subject):
        return {"evaluated": False, "reason": "non_finite_loss", "mode": rules["mode"], "passed": False, "warned": True}
    quantiles = tail_quantiles(final.subject, final.baseline)
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
        ("the tied tensors", _tying(subject) != _tying(baseline), "tying" in kinds),
        ("the vocabulary sizes", subject["vocabulary"] != baseline["vocabulary"], "vocabulary" in kinds),
        ("the digests of the structures", subject["sha256"] != baseline["sha256"], bool(kinds & _STRUCTURAL_KINDS)),
    ):
        if differs != explained:
            raise FormatError(f"invariants: the list of violations contradicts {what}")
    if subject["sha256"] == baseline["sha256"]:
        for count in ("tensors", "norm_modules"):
            if subject[count] != baseline[count]:
                raise FormatError(f"invariants: structures of one digest cannot differ in {count}")
    return {
        "evaluated": True,
        "status": status_of(severities),
        "fatal_violations": sum(severity == "fatal" for severity in severities),
        "warning_violations": sum(severity == "warning" for severity in severities),
    }


def _tying(facts: JsonObject) -> tuple[set[tuple[str, ...]], bool]:
    return {tuple(group) for group in facts["tied"]}, facts["config_tied"]


def _overhead(block: JsonObject, rules: JsonObject) -> JsonObject:
    if not block["evaluated"]:
        return {"evaluated": False}
    guarded, bare = block["guarded_perplexity"], block["bare_perplexity"]
    if not all(0.0 < value <= _MAX_PERPLEXITY for value in (guarded, bare)):
        raise FormatError("guard_overhead: the perplexities must be positive and finite")
    ratio = guarded / bare
    return {"evaluated": True, "overhead_ratio": ratio, "passed": abs(ratio - 1.0) <= rules["ratio_tolerance"]}


def _facts(evidence: JsonObject, preview: _Windows, final: _Windows) -> JsonObject:
    """Return what follows about windows, seeds, edit and tokenizer; no seed is free to be chosen for its outcome."""
    ids = [*preview.ids, *final.ids]
    if len(set(ids)) != len(ids):
        raise FormatError("evaluation_windows: a window stands there twice, so there is less evidence than it seems")
    if len(ids) > evidence["dataset"]["windows"]["available"]:
        raise FormatError("evaluation_windows: more windows than dataset.windows.available")
    meta, edit = evidence["meta"], evidence["provenance"]["edit"]
    seed = meta["seeds"]["edit"] + evidence["scenario"]["run"]
    alpha = evidence["resolved_policy"]["primary_metric"]["alpha"]
    return {
        "dataset": {
            "stride": evidence["dataset"]["seq_len"],
            "windows": {
                "preview": len(preview.ids),
                "final": len(final.ids),
                "seed": seed,
                "stats": {
                    "paired_windows": len(final.ids),
                    "window_match_fraction": 1.0,
                    "window_overlap_fraction": 0.0,
                    "window_pairing_reason": None,
                    "coverage": {"preview": {"used": len(preview.ids)}, "final": {"used": len(final.ids)}},
                    "bootstrap": {"alpha": alpha, "seed": seed, "method": "bca"},
                },
            },
            "hash": {"preview": sha256_of(preview.ids), "final": sha256_of(final.ids)},
        },
        "meta": {"seeds": {"windows": seed, "bootstrap": seed}},
        "edit_name": edit["type"],
        "baseline_ref": {"model_id": meta["model_id"], "tokenizer_hash": meta["tokenizer_hash"]},
        "provenance": {
            "provider_digest": {"ids_sha256": sha256_of(ids)},
            "edit": {"sha256": sha256_of({key: value for key, value in edit.items() if key != "sha256"})},
        },
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
