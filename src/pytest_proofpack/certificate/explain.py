"""One certificate in one line or one paragraph, for people who read test output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.verdict import assess
from pytest_proofpack.common.words import printable
from pytest_proofpack.guards.guard import Criterion
from pytest_proofpack.guards.registry import GUARDS
from pytest_proofpack.plan.records import Scenario, Strictness

FAILED_GATES = "failed_gates_in_words"
"""Key of an excerpt that holds :func:`failed_gates`; see :func:`pytest_proofpack.runs.resume.excerpt`."""
_DEMANDS = {
    Strictness.MUST_PASS: "must pass every gate",
    Strictness.MUST_FAIL: "must fail, and be seen by one of its detectors",
    Strictness.MUST_DETECT: "must be seen by one of its detectors",
    Strictness.INFORMATIONAL: "is informational: it gates nothing",
}


def outcome_word(strictness: Strictness, *, as_expected: bool) -> str:
    """Return what people read of a certificate: ``PASSED``, ``CAUGHT``, ``FAILED`` or ``INFO``.

    Args:
        strictness: what its scenario demands. Damage done on purpose that is noticed is caught.
        as_expected: whether that was met.
    """
    if strictness is Strictness.INFORMATIONAL:
        return "INFO"
    if not as_expected:
        return "FAILED"
    return "PASSED" if strictness is Strictness.MUST_PASS else "CAUGHT"


def failed_gates(certificate: Mapping[str, Any]) -> list[list[str]]:
    """Return of every gate that fails its name in words, what was measured and what was demanded."""
    if FAILED_GATES in certificate:  # an excerpt
        found: list[list[str]] = certificate[FAILED_GATES]
        return found
    words: dict[str, list[str]] = {}
    for guard, block, rules in _judged(certificate):
        for gate in guard.gates:
            if gate.words is not None and gate.flag in certificate["outcome"]["failed_gates"]:
                words[gate.flag] = [gate_words(gate.flag), *gate.words(block, rules)]
    failed = certificate["outcome"]["failed_gates"]
    return [words.get(flag, [gate_words(flag), "see its block", "see its block"]) for flag in failed]


def _judged(certificate: Mapping[str, Any]) -> Iterator[tuple[Criterion, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield what a certificate was judged by, as far as it is here, with its block and its section of the policy."""
    policy = certificate["resolved_policy"]
    for judge in criteria():
        yield judge, certificate[judge.block], policy.get(judge.section, {})
    for name, block in certificate.get("foreign_guards", {}).items():
        if (guard := GUARDS.added.get(name)) is not None:
            yield guard, block["derived"], block["policy"]


def gate_words(flag: str) -> str:
    """Return the name of a gate in words; of one that is not known here its flag."""
    gates = (gate for judge in (*criteria(), *GUARDS.added.values()) for gate in judge.gates)
    titles = {gate.flag: gate.title for gate in gates}
    return titles.get(flag) or printable(flag.replace("_", " "))


def one_line(certificate: Mapping[str, Any]) -> str:
    """Return ratio, interval and failing gates, for example ``ratio 1.214 [1.190, 1.240]; not held: perplexity``."""
    failed = certificate["outcome"]["failed_gates"]
    return _ratio(certificate["primary_metric"]) + (
        f"; not held: {', '.join(map(gate_words, failed))}" if failed else ""
    )


def _ratio(metric: Mapping[str, Any]) -> str:
    if "ratio_vs_baseline" not in metric:
        return f"ratio not defined ({metric['degraded_reason'].replace('_', ' ')})"
    low, high = metric["display_ci"]
    return f"ratio {metric['ratio_vs_baseline']:.4g} [{low:.4g}, {high:.4g}]"


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
    failed = failed_gates(certificate)
    lines = [
        f"{certificate['meta']['model_id']}, scenario {scenario.id}, run {certificate['scenario']['run']}: "
        f"{_DEMANDS[scenario.strictness]}.",
        f"  measured    {_ratio(metric)}; limit {limit}, {metric['tokens']} tokens",
        *(f"  not held    {name}: {measured}; demanded: {demanded}" for name, measured, demanded in failed),
        *(() if failed else ("  gates       all hold",)),
        f"  seen by     {', '.join(outcome['signals']) or 'none of the signals'}",
        f"  detectors   {', '.join(assessment.detectors) or 'none fired'}",
    ]
    if "summary" in certificate["structure"]:
        lines.append(f"  changed     {_changes(certificate['structure']['summary'])}")
    lines += [
        f"  invariants  {violation['severity']}: {violation['message']} ({', '.join(violation['names'])})"
        for violation in certificate["invariants"]["violations"]
    ]
    lines += [f"  label       {finding}" for finding in certificate.get("label", {}).get("findings", ())]
    return "\n".join(lines)


def remarks(certificate: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know of a certificate though it may pass: a line each.

    What could not be told of the model's structure, and a label that does not hold.
    """
    model, violations = certificate["meta"]["model_id"], certificate["invariants"]["violations"]
    untold = [name for violation in violations if violation["kind"] == "layout" for name in violation["names"]]
    findings = certificate.get("label", {}).get("findings", ())
    return [
        *(f"{model}: {text}" for text in untold),
        *(f"{certificate['scenario']['id']}: {text}" for text in findings),
    ]


def _changes(summary: Mapping[str, Any]) -> str:
    """Return what separates a loaded subject from its baseline: ``15 of 47 parameters (ffn 0.097), 1 removed``."""
    relative = {name: group["relative_change"] for name, group in summary["families"].items()}
    changes = ", ".join(f"{name} {value:.3g}" for name, value in relative.items() if value)
    kinds = ("not_finite", "not_compared", "added", "removed", "reshaped")
    others = [f"{summary[kind]} {kind.replace('_', ' ')}" for kind in kinds if summary[kind]]
    changed = f"{summary['changed']} of {summary['parameters']} parameters" + (f" ({changes})" if changes else "")
    return ", ".join([changed, *others])
