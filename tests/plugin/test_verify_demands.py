"""Demands in a pytest session that verifies: each is an item, and one that is not met fails it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.certificates import make_run_directory
from tests.support.packs import pack_of

Pytester = pytest.Pytester
STEPS = 6 + 18
"""The steps of the small pack: one for each certificate, and six others."""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demands")
    return pack_of(make_run_directory(folder / "run").directory, folder / "pack")


def test_demands_that_are_met_pass_as_items(pytester: Pytester, pack: Path) -> None:
    result = pytester.runpytest_subprocess(
        f"--proofpack-verify={pack}",
        "--proofpack-require-verdict=PASS",
        "--proofpack-expect-model=acme/Tiny-1M",
        "--proofpack-min-tier=balanced",
        "--proofpack-expect-text=synthetic",
        "--proofpack-not-before=2026-01-01",
        "-v",
    )
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=STEPS + 5)
    result.stdout.fnmatch_lines(["proofpack/verify::demand[[]require-verdict=PASS[]] PASSED*"])
    result.stdout.fnmatch_lines(["verification: everything that the pack claims holds"])


def test_a_demand_that_is_not_met_is_a_failure(pytester: Pytester, pack: Path) -> None:
    pytester.makeini("[pytest]\nproofpack_expect_suite = tiny\n")
    result = pytester.runpytest_inprocess(
        f"--proofpack-verify={pack}", "--proofpack-max-age=1d", "--proofpack-json=out.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=STEPS, failed=2)
    result.stdout.fnmatch_lines(
        [
            "demanded: expect-suite=tiny; the pack's suite is called small*",
            "demanded: max-age=1d; made 2026-01-01T00:00:00Z",
            "demand not met: expect-suite=tiny: *",
            "demand not met: max-age=1d: *",
            "verification: everything that the pack claims holds, but it is not what was demanded",
        ]
    )
    report = json.loads((pytester.path / "out.json").read_bytes())
    assert (report["ok"], report["accepted"], len(report["demands"])) == (True, False, 2)


def test_a_demand_left_out_by_selection_still_counts(pytester: Pytester, pack: Path) -> None:
    options = (f"--proofpack-verify={pack}", "--proofpack-require-verdict=FAIL", "-k", "not require")
    result = pytester.runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=STEPS, deselected=1)


def test_demands_on_the_signature_are_a_step(pytester: Pytester, pack: Path) -> None:
    result = pytester.runpytest_inprocess(
        f"--proofpack-verify={pack}", "--proofpack-require-signature", "--proofpack-require-verdict=PASS"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=STEPS + 1)
    result.stdout.fnmatch_lines(["demanded: require-verdict=PASS; the pack is not verified"])


def test_a_demand_that_cannot_be_understood_is_a_usage_error(pytester: Pytester, pack: Path) -> None:
    result = pytester.runpytest_inprocess(f"--proofpack-verify={pack}", "--proofpack-max-age=soon")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--proofpack-max-age=soon: expected a number and a unit: 12h, 30d or 8w*"])
