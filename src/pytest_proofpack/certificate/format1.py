"""Format 1, of version 0.1.0: all that is known of it here, so that its certificates and packs verify for ever.

Evidence and derivation are those of format 2. Other were

* the canonical form: Python's, which writes 1.0 where RFC 8785 writes 1, and sorts keys by code points;
* the gates: variance had no flag and counted towards ``rmt_stable``; ``distribution`` was a gate outside of
  ``validation``;
* the order of warnings;
* the policy, which demanded nothing of the final windows alone;
* coverage: no list of what there is to be judged, and so nothing to hold the guards against;
* the schema, ``data/certificate_format1.schema.json``, which knows neither extensions nor guards of theirs.
"""

from __future__ import annotations

import hashlib

from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.errors import FormatError

SCHEMA = "certificate_format1"
SCENARIOS = "scenarios_format1"
GUARDS = ("invariants", "spectral", "rmt", "variance", "moe", "distribution", "guard_overhead")

_GATES = (
    "primary_metric_acceptable",
    "primary_metric_tail_acceptable",
    "preview_final_drift_acceptable",
    "guard_overhead_acceptable",
    "invariants_pass",
    "spectral_stable",
    "rmt_stable",
    "moe_identity_ok",
)
_LATER = frozenset({("primary_metric", "min_final_share"), ("primary_metric", "min_final_windows")})
_LATER_FACTS = frozenset({"final_tokens", "final_windows"})
_LATER_KINDS = frozenset({"layout", "vocabulary_grown"})
_FACTS = ("hysteresis_applied", "moe_observed")
_SIGNALS = {
    "metric": ("primary_metric_acceptable", "preview_final_drift_acceptable"),
    "spectral": ("spectral_stable",),
    "rmt": ("rmt_stable",),
    "invariants": ("invariants_pass", "moe_identity_ok"),
    "distribution": ("distribution",),
}
_WARNINGS = (
    "primary_metric_tail",
    "suspicious_improvement",
    "invariants",
    "spectral",
    "variance",
    "distribution",
    "hysteresis_applied",
)


def sha256_of(value: object) -> str:
    """Return the hexadecimal SHA-256 of a JSON value in the canonical form of format 1.

    Raises:
        FormatError: ``value`` cannot be written as strict JSON, or a string holds half of a surrogate pair.
    """
    try:
        return hashlib.sha256(compact_json(value).encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise FormatError(f"cannot be written as UTF-8: {error.reason}") from error


def demands(thresholds: JsonObject) -> JsonObject:
    """Return a policy of today without what has come since: thresholds, and kinds of violations."""
    sections = {
        name: {key: value for key, value in rules.items() if (name, key) not in _LATER}
        for name, rules in thresholds.items()
    }
    kinds = {
        level: [kind for kind in sections["invariants"][level] if kind not in _LATER_KINDS]
        for level in ("fatal", "warning")
    }
    return {**sections, "invariants": {**sections["invariants"], **kinds}}


def as_format1(derived: JsonObject) -> JsonObject:
    """Return what was derived with the flags and the outcome of format 1."""
    flags, warnings = derived["validation"], derived["outcome"]["warnings"]
    validation = {name: flags[name] for name in (*_GATES, *_FACTS)}
    validation["rmt_stable"] = flags["rmt_stable"] and flags["variance_stable"]
    failed = [gate for gate in _GATES if not validation[gate]]
    failed += [] if flags["distribution_acceptable"] else ["distribution"]
    outcome = {
        "passed": not failed,
        "failed_gates": failed,
        "warnings": [name for name in _WARNINGS if name in warnings],
        "signals": [name for name, gates in _SIGNALS.items() if not set(gates).isdisjoint(failed)],
    }
    metric = {key: value for key, value in derived["primary_metric"].items() if key not in _LATER_FACTS}
    return {**derived, "primary_metric": metric, "validation": validation, "outcome": outcome}


def verdict_of_format1(verdict: JsonObject) -> JsonObject:
    """Return a verdict as packs of format 1 record it: whether it is complete, they did not say."""
    return {name: value for name, value in verdict.items() if name != "complete"}
