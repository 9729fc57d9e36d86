"""Whole sessions with ``--proofpack-repeats``: what runs, what is found, and what the pack holds of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plugin.conftest import SmallSuite, certificates

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_sessions")]  # sessions that certify a model

Pytester = pytest.Pytester
ONE_CERTIFICATE = "--proofpack-runs=calibration:0,clean:1,stress:0,error:0"
QUANT = "acme/small-quant_4bit_clean-run_1"

OTHER_BITS = """
    import pytest, torch

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(fixturedef, request):
        made = yield
        if fixturedef.argname == "proofpack_baseline" and request.node.name.endswith("-repeat_2]"):
            made.batch.halve()  # as if another program had left too little memory
            with torch.no_grad():  # the last bits, as the kernels of some devices round them now so, now so
                next(made.model.parameters()).mul_(1 + 1e-6)
        return made
"""


@pytest.fixture
def quant(small: SmallSuite) -> SmallSuite:
    """A suite of one scenario."""
    small.write(("quant_4bit_clean",))
    return small


def summary(run: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((run / "analysis/determinism_repeats.json").read_bytes())
    return document


def test_repeats_on_any_worker_are_compared_and_not_stored(pytester: Pytester, quant: SmallSuite) -> None:
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={quant.suite}", "--proofpack-out=run", "--proofpack-repeats=3", ONE_CERTIFICATE, "-n2", "-v"
    )

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1 + 3 + 2)
    result.stdout.fnmatch_lines(
        [
            "proofpack: suite small, 1 certificates of acme/small, 3 repeats of one; tier *; run directory run",
            "proofpack/small::repeats PASSED*",
            "repeats: 3 of quant_4bit_clean on acme/small: bit-identical",
        ]
    )
    run = pytester.path / "run"
    assert list(certificates(run)) == ["acme__small/certificates/quant_4bit_clean/run_1"]
    found = summary(run)
    assert (found["made"], found["bit_identical"], found["devices"]) == (3, True, ["cpu"])
    assert (found["determinism_requested"], found["determinism_reached"]) == ("throughput", ["strict"])
    manifest = json.loads((run / "proof_pack/manifest.json").read_bytes())
    assert (manifest["repeats"], manifest["determinism_repeats"]) == (3, found)
    assert pytester.runpytest_subprocess("--proofpack-verify=run/proof_pack").ret == pytest.ExitCode.OK


def run_with_other_bits(pytester: Pytester, quant: SmallSuite, *options: str) -> pytest.RunResult:
    """Run a session whose second repeat has another batch size and other bits."""
    pytester.syspathinsert(pytester.makepyfile(other_bits=OTHER_BITS).parent)
    ours = f"--proofpack-suite={quant.suite}", "--proofpack-out=run", "--proofpack-no-pack", ONE_CERTIFICATE
    return pytester.runpytest_subprocess(*ours, "-p", "other_bits", *options)


def test_other_bits_are_told(pytester: Pytester, quant: SmallSuite) -> None:
    result = run_with_other_bits(pytester, quant, "--proofpack-repeats=2")

    assert result.ret == pytest.ExitCode.OK
    differ = "1 of 3 certificates differ from the first, largest difference of the ratio *"
    result.stdout.fnmatch_lines(["verdict: PASS", f"repeats: 2 of quant_4bit_clean on acme/small: {differ}"])
    found = summary(pytester.path / "run")
    assert (found["bit_identical"], found["batch_windows"]) == (False, [16, 32])


def test_a_strict_run_fails_on_other_bits_and_missing_repeats(pytester: Pytester, quant: SmallSuite) -> None:
    options = "--proofpack-repeats=3", "--proofpack-determinism=strict", "-k", "not repeat_3"
    result = run_with_other_bits(pytester, quant, *options)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "acme/small, scenario quant_4bit_clean, run 1: 1 of 3 repeats are missing; strict determinism promises *",
            "  made on     cpu, batches of 16, 32 windows",
            "verdict: PASS",
            "repeats: 2 (1 missing) of quant_4bit_clean on acme/small: 1 of 3 certificates differ from the first*",
            "FAILED proofpack/small::repeats*",
        ]
    )


def test_they_are_listed_and_chosen_by_marker(pytester: Pytester, quant: SmallSuite) -> None:
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={quant.suite}", "--proofpack-repeats=2", "--collect-only", "-q", "-m", "proofpack_repeat"
    )

    ids = [line for line in result.outlines if line.startswith("proofpack/small::")]
    assert ids == [f"proofpack/small::test_certificate[{QUANT}-repeat_{number}]" for number in (1, 2)]
