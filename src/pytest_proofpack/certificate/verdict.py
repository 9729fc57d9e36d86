"""The verdict over a suite: what was expected, set against every certificate there is.

PASS needs every expected certificate of every model and run: clean edits that pass, ``must_fail`` and ``must_detect``
scenarios in which a listed detector fired, subjects edited elsewhere that pass every gate (and, where their files are
the baseline's, show no difference at all). Something missing is FAIL, and so is an empty run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.certificate.detectors import detector_name
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.plan.edit_kinds import NOOP
from pytest_proofpack.plan.expected import Key, expected_certificates
from pytest_proofpack.plan.records import Category, Scenario, Strictness

_REQUIREMENTS = {
    Strictness.MUST_PASS: ("clean_all_pass", "a clean edit must pass every gate"),
    Strictness.MUST_FAIL: ("stress_required_fail", "a destructive edit must fail, seen by one of its detectors"),
    Strictness.MUST_DETECT: ("error_injection_detected", "an injected error must be seen by one of its detectors"),
}
_BYOE_REQUIREMENT = ("byoe_all_pass", "an edited model must pass every gate, and a noop show no difference")
COVERAGE = "scenario_coverage"
"""The requirement that every expected certificate is there."""
_EQUAL_RATIO = 1e-9


@dataclass(frozen=True)
class Assessment:
    """What one certificate means for the verdict.

    Attributes:
        as_expected: the certificate behaves as its scenario demands; True for informational scenarios.
        detectors: names of the listed detectors that fired.
    """

    as_expected: bool
    detectors: tuple[str, ...]


def assess(certificate: Mapping[str, Any], scenario: Scenario) -> Assessment:
    """Judge one certificate against what its scenario demands."""
    fired = tuple(detector_name(detector) for detector in scenario.detectors if _fired(certificate, detector))
    passed = bool(certificate["outcome"]["passed"])
    match scenario.strictness:
        case Strictness.MUST_PASS if scenario.subject is not None and scenario.subject.label == NOOP:
            return Assessment(passed and shows_no_difference(certificate), fired)
        case Strictness.MUST_PASS:
            return Assessment(passed, fired)
        case Strictness.MUST_FAIL:
            return Assessment(not passed and bool(fired), fired)
        case Strictness.MUST_DETECT:
            return Assessment(bool(fired), fired)
        case Strictness.INFORMATIONAL:
            return Assessment(True, fired)


def shows_no_difference(certificate: Mapping[str, Any]) -> bool:
    """Tell whether a loaded subject is its baseline in every respect: structure, values and losses."""
    ratio = certificate["primary_metric"].get("ratio_vs_baseline")
    summary = certificate["structure"].get("summary")
    differing = ("changed", "not_compared", "added", "removed", "reshaped")
    return (
        ratio is not None
        and abs(ratio - 1.0) <= _EQUAL_RATIO
        and isinstance(summary, Mapping)
        and not any(summary.get(key, 1) for key in differing)
        and all(violation.get("kind") == "layout" for violation in certificate["invariants"]["violations"])
    )


def compute_verdict(
    document: JsonObject, certificates: Iterable[JsonObject], sha256: Callable[[object], str] = sha256_of
) -> JsonObject:
    """Return the verdict as it stands in ``final_verdict.json``.

    Args:
        document: the run's scenarios document with its plan.
        certificates: every certificate of the run, valid against the schema, in any order.
        sha256: the digest of a JSON value, in the pack's format.

    Raises:
        FormatError: the document holds an integer that the canonical form has no room for.
    """
    expected = expected_certificates(document)
    found: dict[Key, JsonObject] = {}
    twice: set[Key] = set()
    for certificate in certificates:
        key = certificate_key(certificate)
        twice |= {key} & found.keys()
        found[key] = certificate
    rows = [verdict_row(found[key], expected[key]) for key in expected if key in found]
    missing = [_describe(key) for key in expected if key not in found]
    unexpected = [_describe(key) for key in sorted((found.keys() - expected.keys()) | twice)]
    failed = [
        *_failed_requirements(rows),
        *_coverage(expected, missing, unexpected),
    ]
    plan = document["plan"]
    return {
        "verdict": "FAIL" if failed else "PASS",
        "suite": plan["suite"],
        "manifest": {
            "schema": document["schema"],
            "schema_version": document["schema_version"],
            "sha256": sha256(document),
        },
        "complete": not missing,
        "criteria": {name: True for name, _ in _demands(expected.values())},
        "counts": _counts(plan, expected, rows),
        "missing": missing,
        "unexpected": unexpected,
        "skipped": plan["skipped"],
        "failed_requirements": failed,
        "certificates": rows,
    }


def certificate_key(certificate: Mapping[str, Any]) -> Key:
    """Return model id, scenario id and run of a certificate."""
    scenario = certificate["scenario"]
    return certificate["meta"]["model_id"], scenario["id"], scenario["run"]


def row_key(row: Mapping[str, Any]) -> Key:
    """Return the same of a verdict's row, or of an entry of what is missing or fails."""
    return row["model"], row["scenario"], row["run"]


def _fired(certificate: Mapping[str, Any], detector: Mapping[str, Any]) -> bool:
    """Tell whether a detector fired. A flag or field that is absent never does."""
    match detector["kind"]:
        case "validation_flag":
            return certificate["validation"].get(detector["flag"]) is detector["expected"]
        case "primary_metric":
            return certificate["primary_metric"].get(detector["field"]) is detector["expected"]
        case "invariants_status":
            return certificate["invariants"]["status"] in detector["allowed"]
    return False


def verdict_row(certificate: JsonObject, scenario: Scenario) -> JsonObject:
    """Return what a verdict says of one certificate, under ``certificates``."""
    model, scenario_id, run = certificate_key(certificate)
    metric = certificate["primary_metric"]
    assessment = assess(certificate, scenario)
    row = {
        "model": model,
        "scenario": scenario_id,
        "category": scenario.category.value,
        "strictness": scenario.strictness.value,
        "run": run,
        "passed": certificate["outcome"]["passed"],
        "failed_gates": certificate["outcome"]["failed_gates"],
        "warnings": certificate["outcome"]["warnings"],
        "signals": certificate["outcome"]["signals"],
        "detectors_fired": list(assessment.detectors),
        "as_expected": assessment.as_expected,
        "certificate_digest": certificate["certificate_digest"],
    }
    measured = {"ratio_vs_baseline": "ratio", "display_ci": "interval"}
    return row | {name: metric[key] for key, name in measured.items() if key in metric}


def _demands(scenarios: Iterable[Scenario]) -> list[tuple[str, str]]:
    """Return the requirements of a run with their meaning; that of subjects only where there are any."""
    has_subjects = any(scenario.category is Category.BYOE for scenario in scenarios)
    return [*_REQUIREMENTS.values(), *([_BYOE_REQUIREMENT] if has_subjects else [])]


def _failed_requirements(rows: list[JsonObject]) -> list[JsonObject]:
    broken = [(_requirement(row), row) for row in rows if not row["as_expected"]]
    return [
        {"requirement": name, "message": text, **{key: row[key] for key in ("model", "scenario", "run")}}
        for name, text in (*_REQUIREMENTS.values(), _BYOE_REQUIREMENT)
        for demand, row in broken
        if demand == name
    ]


def _requirement(row: JsonObject) -> str:
    """Return the name of what a row fails."""
    demand = _BYOE_REQUIREMENT if row["category"] == Category.BYOE else _REQUIREMENTS[Strictness(row["strictness"])]
    return demand[0]


def _coverage(
    expected: Mapping[Key, Scenario], missing: list[JsonObject], unexpected: list[JsonObject]
) -> list[JsonObject]:
    findings = []
    if not expected:
        findings.append({"requirement": "evidence_present", "message": "the run expects no certificate at all"})
    if missing:
        message = f"{len(missing)} of {len(expected)} expected certificates are missing"
        findings.append({"requirement": COVERAGE, "message": message})
    if unexpected:
        message = f"{len(unexpected)} certificates are none that the run expects, or one too many"
        findings.append({"requirement": "no_unexpected_certificates", "message": message})
    return findings


def _describe(key: Key) -> JsonObject:
    model, scenario, run = key
    return {"model": model, "scenario": scenario, "run": run}


def _counts(plan: JsonObject, expected: Mapping[Key, Scenario], rows: list[JsonObject]) -> JsonObject:
    counts: JsonObject = {
        "models_total": len(plan["models"]),
        "expected_total": len(expected),
        "records_total": len(rows),
    }
    for strictness in Strictness:
        of_kind = [row for row in rows if row["strictness"] == strictness.value]
        counts[f"{strictness.value}_total"] = len(of_kind)
        counts[f"{strictness.value}_as_expected"] = sum(row["as_expected"] for row in of_kind)
    return counts
