"""One certificate in one line or one paragraph, for people who read test output."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_proofpack.certificate.criteria import criteria, gate_titles
from pytest_proofpack.certificate.detectors import detector_name
from pytest_proofpack.certificate.verdict import assess
from pytest_proofpack.common.words import limit, printable, ratio
from pytest_proofpack.guards.guard import Criterion
from pytest_proofpack.guards.readings import readings_words
from pytest_proofpack.guards.registry import GUARDS
from pytest_proofpack.plan.records import Scenario, Strictness

FAILED_GATES = "failed_gates_in_words"
"""Key of an excerpt that holds :func:`failed_gates`; see :func:`pytest_proofpack.runs.resume.excerpt`."""
NOT_CAUGHT = "not caught"
"""Stands beside ``FAILED`` where the damage was done on purpose."""
_DETECTOR_GATES = {"invariants": "invariants_pass", "primary_metric": "primary_metric_acceptable"}
"""Gates whose names detectors have that read no flag."""
_GATE_LABELS = ("not held", "  measured", "  demanded")
_COLUMNS = 80
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


def outcome_words(strictness: Strictness, *, passed: bool, as_expected: bool) -> str:
    """Return :func:`outcome_word` with what it leaves open: damage that was not caught, gates where they gate nothing.

    Args:
        strictness: what the scenario demands.
        passed: whether every gate holds.
        as_expected: whether what is demanded was met.
    """
    word = outcome_word(strictness, as_expected=as_expected)
    if strictness is Strictness.INFORMATIONAL:
        return f"{word}, gates {'hold' if passed else 'fail'}"
    return f"{word}, {NOT_CAUGHT}" if is_uncaught(strictness, as_expected=as_expected) else word


def is_uncaught(strictness: str, *, as_expected: bool) -> bool:
    """Tell whether this is damage that was to be caught and was not; the arguments are those of a verdict's row."""
    return not as_expected and strictness in (Strictness.MUST_FAIL, Strictness.MUST_DETECT)


def why_not(row: Mapping[str, Any]) -> str:
    """Return why a row of a verdict is not what its scenario demands: nothing caught it, or the gates that fail."""
    failed = ", ".join(map(gate_words, row["failed_gates"]))
    gates = f"not held: {failed}" if failed else "all gates hold"
    return f"{NOT_CAUGHT}; {gates}" if is_uncaught(row["strictness"], as_expected=row["as_expected"]) else gates


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
        if judge.block in certificate:  # a format of before may lack it
            yield judge, certificate[judge.block], policy.get(judge.section, {})
    for name, block in certificate.get("foreign_guards", {}).items():
        if (guard := GUARDS.added.get(name)) is not None:
            yield guard, block["derived"], block["policy"]


def gate_words(flag: str) -> str:
    """Return the name of a gate in words; of one that is not known here its flag."""
    return gate_titles().get(flag) or printable(flag.replace("_", " "))


def detector_words(name: str) -> str:
    """Return the name of a detector, as rows of a verdict have it, in the words of its gate."""
    return gate_words(_DETECTOR_GATES.get(name.partition(".")[0], name))


def warning_words(name: str) -> str:
    """Return the name of a warning in words: those of what raises it, or its own."""
    for judge in criteria():
        if name in judge.warnings and name == judge.name:
            return judge.gates[0].title if judge.gates else judge.judges
    return printable(name.replace("_", " "))


def one_line(certificate: Mapping[str, Any]) -> str:
    """Return ratio, interval, failing gates or warnings: ``ratio 1.2140 [1.1900, 1.2400]; not held: perplexity``."""
    failed, warned = certificate["outcome"]["failed_gates"], certificate["outcome"]["warnings"]
    if failed:
        told = f"; not held: {', '.join(map(gate_words, failed))}"
    else:
        told = f"; with a warning: {', '.join(map(warning_words, warned))}" if warned else ""
    return _ratio(certificate["primary_metric"]) + told


def _ratio(metric: Mapping[str, Any]) -> str:
    if "ratio_vs_baseline" not in metric:
        return f"ratio not defined ({metric['degraded_reason'].replace('_', ' ')})"
    low, high = metric["display_ci"]
    return f"ratio {ratio(metric['ratio_vs_baseline'])} [{ratio(low)}, {ratio(high)}]"


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
    allowed = limit(certificate["resolved_policy"]["primary_metric"]["ratio_limit"])
    told = [
        ("measured", f"{_ratio(metric)}; limit {allowed}, {metric['tokens']} tokens"),
        *(line for gate in failed_gates(certificate) for line in zip(_GATE_LABELS, gate, strict=True)),
        *(() if outcome["failed_gates"] else (("gates", "all hold"),)),
        ("seen by", ", ".join(outcome["signals"]) or "none of the signals"),
        ("detectors", ", ".join(assessment.detectors) or _silent(scenario)),
    ]
    if "summary" in certificate["structure"]:
        told.append(("changed", _changes(certificate["structure"]["summary"])))
    if words := readings_words(certificate["readings"]) if "readings" in certificate else "":
        told.append(("read", words))
    told += [
        ("invariants", f"{violation['severity']}: {violation['message']} ({', '.join(violation['names'])})")
        for violation in certificate["invariants"]["violations"]
    ]
    told += [("label", finding) for finding in certificate.get("label", {}).get("findings", ())]
    run = certificate["scenario"]["run"]
    head = f"{certificate['meta']['model_id']}, scenario {scenario.id}, run {run}: {_DEMANDS[scenario.strictness]}."
    return "\n".join([head, *(line for label, text in told for line in _beside(label, text))])


def _silent(scenario: Scenario) -> str:
    """Say that no detector fired, of those that the scenario lists."""
    listed = ", ".join(map(detector_name, scenario.detectors))
    return f"none fired of {listed}" if listed else "none fired"


def _beside(label: str, text: str) -> list[str]:
    """Return a text beside its label, on as many lines as a terminal of 80 columns needs."""
    indent = " " * 14
    return textwrap.wrap(
        *(text, _COLUMNS), initial_indent=f"  {label:<12}", subsequent_indent=indent, break_long_words=False
    )


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
