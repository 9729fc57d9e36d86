"""What a verified pack says: the worst run of every edit, in few lines, whatever the pack holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.pack.facts_text import MAX_NAMES, MAX_ROWS, facts_lines
from pytest_proofpack.pack.verified import EditFacts, ModelIdentity, Verified
from pytest_proofpack.pack.verify import verify_pack
from tests.support.certificates import MODEL, make_run_directory
from tests.support.packs import pack_of

RUNS = {"calibration": 1, "clean": 3, "stress": 2, "error": 1}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Verified:
    """The facts of a pack in which one clean edit is too strong, and one destructive edit has no effect."""
    folder = tmp_path_factory.mktemp("facts")
    shifts = {"fp8_e5m2_clean": 0.5, "prune_50pct_stress": 0.001}
    run = make_run_directory(folder / "run", runs=RUNS, shifts=shifts)
    found = verify_pack(pack_of(run.directory, folder / "pack")).facts
    assert found is not None
    return found


def edit(facts: Verified, scenario: str) -> EditFacts:
    return next(found for found in facts.edits if found.scenario == scenario)


def test_every_scenario_has_one_entry(facts: Verified) -> None:
    assert len(facts.edits) == len({found.scenario for found in facts.edits}) == 18
    assert sum(found.runs for found in facts.edits) == sum(facts.counts.values()) == 30
    assert facts.verdict == "FAIL"


def test_the_worst_run_of_what_must_pass_is_the_one_nearest_to_the_limit(facts: Verified, tmp_path: Path) -> None:
    run = make_run_directory(tmp_path / "run", runs=RUNS)
    uppers = {
        certificate["scenario"]["run"]: certificate["primary_metric"]["display_ci"][1]
        for certificate in run.certificates.values()
        if certificate["scenario"]["id"] == "quant_4bit_clean"
    }
    found = edit(facts, "quant_4bit_clean")
    assert (found.runs, found.run) == (3, max(uppers, key=lambda number: uppers[number]))
    assert found.margin == found.limit - max(uppers.values())
    assert (found.as_expected, found.passed) == (True, True)


def test_the_worst_run_of_what_must_fail_is_the_one_that_lost_least(facts: Verified, tmp_path: Path) -> None:
    run = make_run_directory(tmp_path / "run", runs=RUNS)
    ratios = [
        certificate["primary_metric"]["display_ci"][1]
        for certificate in run.certificates.values()
        if certificate["scenario"]["id"] == "svd_rank32_stress"
    ]
    found = edit(facts, "svd_rank32_stress")
    assert found.interval is not None
    assert found.interval[1] == min(ratios)
    assert found.margin is not None
    assert found.margin < 0


def test_what_is_not_as_expected_is_said(facts: Verified) -> None:
    assert not edit(facts, "fp8_e5m2_clean").as_expected
    assert not edit(facts, "prune_50pct_stress").as_expected
    lines = {line.split()[1]: line for line in facts_lines(facts) if "FAILED" in line}
    assert list(lines) == ["fp8_e5m2_clean", "prune_50pct_stress"]
    assert lines["fp8_e5m2_clean"].endswith("  FAILED")
    assert lines["prune_50pct_stress"].endswith("  FAILED, not caught")


def test_a_narrow_terminal_gets_what_there_is_room_for(facts: Verified) -> None:
    wide, narrow = (list(facts_lines(facts, width)) for width in (None, 80))
    assert max(map(len, wide)) > 100
    assert max(map(len, narrow)) <= 80
    assert next(line for line in narrow if line.startswith(" ")).startswith(" " * 14)
    start = narrow.index("") + 1
    assert narrow[start].split() == ["scenario", "ratio", "interval", "margin", "KL", "worst", "run"]
    assert narrow[-1] == f"no room for: model ({MODEL}), demand, runs, limit (1.1)"


def test_what_passes_with_a_warning_is_said(facts: Verified) -> None:
    warned = replace(edit(facts, "quant_4bit_clean"), warnings=("invariants", "suspicious_improvement"))
    broken = replace(edit(facts, "nan_injection"), warnings=("spectral",))  # which nobody hopes to be clean
    assert list(facts_lines(replace(facts, edits=(warned, broken))))[-1] == (
        f"with a warning: {MODEL}: quant_4bit_clean: structure, suspicious improvement"
    )
    many = tuple(replace(warned, scenario=f"edit{number}") for number in range(MAX_NAMES + 3))
    assert list(facts_lines(replace(facts, edits=many)))[-1] == "... and 3 more with a warning"


def test_without_a_finite_loss_there_is_no_ratio(facts: Verified) -> None:
    lost = replace(edit(facts, "nan_injection"), ratio=None, interval=None, margin=None, kl=None)
    line = list(facts_lines(replace(facts, edits=(lost,))))[-1]
    assert line.split() == [MODEL, "nan_injection", "must", "detect", "1", "-", "-", "1.1", "-", "-", "CAUGHT"]


def test_texts_of_a_pack_cannot_mislead_a_terminal_or_flood_it(facts: Verified) -> None:
    name = "\x1b[2Jacme/\u202emodel" + "x" * 380
    many = tuple(ModelIdentity(f"{name}{number}", None, ("c" * 64,)) for number in range(1000))
    edits = tuple(replace(facts.edits[1], model=f"{name}{number}") for number in range(1000))
    last = replace(facts.edits[1], scenario="lost", as_expected=False)
    hostile = replace(
        facts, suite=name, models=many, subjects=many, edits=(*edits, last), skipped=tuple(f"{name}: a" for _ in edits)
    )
    lines = list(facts_lines(hostile))
    assert all(line.isprintable() for line in lines)
    assert len(lines) < MAX_ROWS + 3 * MAX_NAMES + 20
    assert max(map(len, lines)) < 300
    assert "... and 990 more" in "\n".join(lines)
    assert lines[-1] == f"... and {1001 - MAX_ROWS} more, all of them in --json"
    assert any("lost" in line for line in lines)


def test_nothing_is_said_of_a_pack_that_does_not_hold(unsigned: Path) -> None:
    (unsigned / "extra").touch()
    report = verify_pack(unsigned)
    assert (report.ok, report.facts) == (False, None)


def test_the_plan_is_not_part_of_the_scenarios(facts: Verified) -> None:
    assert facts.scenarios.startswith("the packaged ones of version")
    assert facts.models == (ModelIdentity(MODEL, None, ("c" * 64,)),)
