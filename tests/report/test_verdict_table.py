from __future__ import annotations

import itertools

import pytest

from pytest_proofpack.certificate.explain import gate_words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.report import model_lines, reasons, verdict_table, verdict_text, warned
from tests.support.report_samples import a_verdict

METRIC = gate_words("primary_metric_acceptable")


def line_of(lines: list[str], *cells: str) -> str:
    return next(line for line in lines if line.split()[: len(cells)] == list(cells))


def test_one_line_per_certificate_with_numbers_outcome_and_gates() -> None:
    verdict = a_verdict()
    lines = verdict_table(verdict)
    row = verdict["certificates"][0]
    low, high = row["interval"]
    shown = line_of(lines, "quant_4bit_clean", "1").split()
    assert shown == [
        "quant_4bit_clean",
        "1",
        f"{row['ratio']:.4f}",
        f"{low:.4f}-{high:.4f}",
        "FAILED",
        "M......",
        *METRIC.split(),
    ]
    assert lines.index("proofpack/tiny") < lines.index("org/other")


def test_detectors_that_the_scenario_lists_are_marked() -> None:
    lines = verdict_table(a_verdict())
    assert line_of(lines, "prune_50pct_stress", "1").partition("CAUGHT")[2].split() == [
        "M......",
        *f"{METRIC}*".split(),
    ]
    assert lines[-1] == "* a detector that the scenario lists"


@pytest.mark.parametrize(
    ("signals", "letters"),
    [
        ([], "......."),
        (["metric", "spectral", "rmt", "invariants", "distribution"], "MSRID.."),
        (["distribution", "spectral"], ".S..D.."),
    ],
)
def test_letters_say_which_signals_saw_the_edit(signals: list[str], letters: str) -> None:
    verdict = a_verdict()
    verdict["certificates"][0]["signals"] = signals
    lines = verdict_table(verdict)
    assert line_of(lines, "quant_4bit_clean", "1").split()[5] == letters
    legend = "M metric, S spectral, R rmt and variance, I invariants, D distribution, W direction of weights, A answers"
    assert f"seen by: {legend} of sublayers" in " ".join(lines)


def test_missing_and_non_finite_certificates_have_their_lines() -> None:
    lines = verdict_table(a_verdict())
    assert line_of(lines, "nan_injection", "1", "-", "-", "CAUGHT")
    assert line_of(lines, "nan_injection", "1", "-", "-", "MISSING")


def test_an_error_that_nothing_saw_failed_for_it_was_not_caught() -> None:
    verdict = a_verdict()
    row = next(row for row in verdict["certificates"] if row["scenario"] == "nan_injection")
    row |= {"passed": True, "failed_gates": [], "detectors_fired": [], "signals": [], "as_expected": False}
    assert line_of(verdict_table(verdict), "nan_injection").split()[-4:] == ["FAILED", ".......", "not", "caught"]
    verdict["failed_requirements"] = [
        {
            "requirement": "error_injection_detected",
            "message": "m",
            **{key: row[key] for key in ("model", "scenario", "run")},
        }
    ]
    assert reasons(verdict)[1].endswith("nan_injection, run 1: no ratio; not caught; all gates hold")


def test_informational_certificates_are_neither_expected_nor_not() -> None:
    verdict = a_verdict()
    verdict["certificates"][0]["strictness"] = "informational"
    assert line_of(verdict_table(verdict), "quant_4bit_clean", "1").split()[4] == "INFO"


def test_nothing_explains_what_is_not_there_but_the_text_of_a_pack_is_always_the_same() -> None:
    verdict = a_verdict()
    for row in verdict["certificates"]:
        row |= {"failed_gates": [], "detectors_fired": [], "signals": [], "as_expected": True}
    shown = verdict_table(verdict)
    assert shown[1].split() == ["scenario", "run", "ratio", "95", "%", "interval", "result"]
    assert not [line for line in shown if "....." in line or "seen by" in line or "a detector" in line]
    assert shown[-1]

    text = verdict_text(verdict)
    assert "result   seen by  not held, detectors\n" in text
    assert "* a detector that the scenario lists\n" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_no_line_is_wider_than_asked(width: int) -> None:
    verdict = a_verdict()
    gates = ["primary_metric_acceptable", "preview_final_drift_acceptable", "invariants_pass", "x" * 200]
    for row in verdict["certificates"]:
        row |= {"failed_gates": gates, "scenario": row["scenario"] + "y" * 80, "model": row["model"] + "z" * 390}
    lines = verdict_table(verdict, width)
    assert max(map(len, lines)) <= width
    assert all(len(list(group)) == 1 for line, group in itertools.groupby(lines) if not line)
    assert gate_words("preview_final_drift_acceptable") in " ".join(" ".join(lines).split())


def test_names_cannot_control_the_terminal() -> None:
    verdict = a_verdict()
    for row in verdict["certificates"]:
        row |= {"model": "evil\x1b[2J\r\nPASS", "failed_gates": ["\x07bell"]}
    verdict["skipped"][0]["reason"] = "\x1b]0;title\x07"
    text = verdict_text(verdict)
    assert r"evil\x1b[2J\x0d\x0aPASS" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_text_begins_with_the_verdict_and_lists_what_is_wrong() -> None:
    text = verdict_text(a_verdict())
    assert text.splitlines()[0] == "VERDICT: FAIL"
    assert "4 of 5 expected certificates" in text
    assert "must pass         1 of 2 as expected" in text
    assert "clean_all_pass: a clean edit must pass every gate (proofpack/tiny: quant_4bit_clean, run 1)" in text
    assert "Missing certificates\n  - org/other: nan_injection, run 1" in text
    assert "Left out on purpose\n  - org/other: prune_50pct_stress: too small" in text
    assert "Unexpected" not in text
    assert text.splitlines()[1] == "INCOMPLETE: 1 certificates are missing"


def test_a_run_without_certificates_has_a_table_too() -> None:
    empty: JsonObject = a_verdict() | {"certificates": [], "missing": []}
    assert verdict_table(empty) == ["no certificates"]


def test_a_line_per_model_counts_what_came_of_its_certificates() -> None:
    verdict = a_verdict()
    first, second = model_lines(verdict)
    assert first.startswith("proofpack/tiny: 1 FAILED, 2 CAUGHT; largest ratio that must pass ")
    assert second.startswith("org/other: 1 MISSING, 1 PASSED")


def test_reasons_name_the_requirement_the_certificate_and_what_was_measured() -> None:
    verdict = a_verdict()
    row = verdict["certificates"][0]
    lines = reasons(verdict)
    at = lines.index("clean_all_pass: a clean edit must pass every gate")
    assert lines[at + 1] == f"  proofpack/tiny: quant_4bit_clean, run 1: ratio {row['ratio']:.4f}; not held: {METRIC}"
    assert "scenario_coverage: 1 of 5 expected certificates are missing" in lines


def test_what_passes_with_a_warning_is_told_once_per_warning() -> None:
    verdict = a_verdict()
    passing = {"strictness": "must_pass", "as_expected": True, "failed_gates": []}
    first, second, *_ = (row for row in verdict["certificates"] if row["model"] == "proofpack/tiny")
    first |= {**passing, "warnings": ["invariants", "suspicious_improvement"]}
    second |= {**passing, "warnings": ["invariants", "baseline_quality"]}  # which has a line of its own
    assert warned(verdict) == [
        f"proofpack/tiny: {first['scenario']} and 1 other: {gate_words('invariants_pass')}",
        f"proofpack/tiny: {first['scenario']}: suspicious improvement",
    ]
    second |= {"strictness": "must_fail"}
    assert warned(verdict)[0] == f"proofpack/tiny: {first['scenario']}: {gate_words('invariants_pass')}"
