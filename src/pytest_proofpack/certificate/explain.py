"""One certificate in one line or one paragraph, for people who read test output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_proofpack.certificate.verdict import assess
from pytest_proofpack.guards.readings import readings_words
from pytest_proofpack.plan.records import Scenario, Strictness

_DEMANDS = {
    Strictness.MUST_PASS: "must pass every gate",
    Strictness.MUST_FAIL: "must fail, and be seen by one of its detectors",
    Strictness.MUST_DETECT: "must be seen by one of its detectors",
    Strictness.INFORMATIONAL: "is informational: it gates nothing",
}


def one_line(certificate: Mapping[str, Any]) -> str:
    """Return ratio, interval and failing gates, for example ``ratio 1.214 [1.190, 1.240], fails primary_metric``."""
    metric = certificate["primary_metric"]
    if "ratio_vs_baseline" in metric:
        low, high = metric["display_ci"]
        text = f"ratio {metric['ratio_vs_baseline']:.4g} [{low:.4g}, {high:.4g}]"
    else:
        text = f"ratio not defined ({metric['degraded_reason'].replace('_', ' ')})"
    failed = certificate["outcome"]["failed_gates"]
    return text + (f", fails {', '.join(failed)}" if failed else "")


def unexpected(certificate: Mapping[str, Any], scenario: Scenario) -> str | None:
    """Explain why a certificate is not what its scenario demands; None if it is.

    An informational scenario's demand is that of a clean edit here: its item is a non-strict xfail.
    """
    assessment = assess(certificate, scenario)
    outcome = certificate["outcome"]
    informational = scenario.strictness is Strictness.INFORMATIONAL
    if assessment.as_expected and (outcome["passed"] or not informational):
        return None
    metric = certificate["primary_metric"]
    limit = certificate["resolved_policy"]["primary_metric"]["ratio_limit"]
    lines = [
        f"{certificate['meta']['model_id']}, scenario {scenario.id}, run {certificate['scenario']['run']}: "
        f"{_DEMANDS[scenario.strictness]}.",
        f"  measured    {one_line(certificate)}; limit {limit}, {metric['tokens']} tokens",
        f"  gates       {', '.join(outcome['failed_gates']) or 'all pass'}",
        f"  seen by     {', '.join(outcome['signals']) or 'none of the signals'}",
        f"  detectors   {', '.join(assessment.detectors) or 'none fired'}",
    ]
    if "summary" in certificate["structure"]:
        lines.append(f"  changed     {_changes(certificate['structure']['summary'])}")
    if words := readings_words(certificate["readings"]) if "readings" in certificate else "":
        lines.append(f"  read        {words}")
    lines += [
        f"  invariants  {violation['severity']}: {violation['message']} ({', '.join(violation['names'])})"
        for violation in certificate["invariants"]["violations"]
    ]
    lines += [f"  label       {finding}" for finding in certificate.get("label", {}).get("findings", ())]
    return "\n".join(lines)


def remarks(certificate: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know of a certificate though it may pass: a line each.

    What could not be told of the model's structure, a label that does not hold, and what was not judged as it runs.
    """
    model, violations = certificate["meta"]["model_id"], certificate["invariants"]["violations"]
    untold = [name for violation in violations if violation["kind"] == "layout" for name in violation["names"]]
    findings = certificate.get("label", {}).get("findings", ())
    readings = certificate.get("readings", {})
    return [
        *(f"{model}: {text}" for text in untold),
        *(f"{certificate['scenario']['id']}: {text}" for text in findings),
        *([f"{certificate['scenario']['id']}: {readings_words(readings)}"] if readings.get("weights_only") else []),
    ]


def _changes(summary: Mapping[str, Any]) -> str:
    """Return what separates a loaded subject from its baseline: ``15 of 47 parameters (ffn 0.097), 1 removed``."""
    relative = {name: group["relative_change"] for name, group in summary["families"].items()}
    changes = ", ".join(f"{name} {value:.3g}" for name, value in relative.items() if value)
    kinds = ("not_finite", "not_compared", "added", "removed", "reshaped")
    others = [f"{summary[kind]} {kind.replace('_', ' ')}" for kind in kinds if summary[kind]]
    changed = f"{summary['changed']} of {summary['parameters']} parameters" + (f" ({changes})" if changes else "")
    return ", ".join([changed, *others])
