"""Sessions that find the parameters of clean edits, and sessions that find them first and then certify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.text.synthetic import generate
from tests.plugin.conftest import SmallSuite, certificates

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_sessions")]  # sessions that certify a model

Pytester = pytest.Pytester
SCENARIOS = ("quant_4bit_clean", "fp8_e5m2_clean", "nan_injection")
LOW_RANK = "svd_rank32_l31_clean"
FILE = "tuned_edit_params.json"
NO_LOADING = """
import pytest_proofpack.engine.baseline

def refuse(*_args):
    raise pytest_proofpack.engine.baseline.EvaluationError("a model was to be loaded")

pytest_proofpack.engine.baseline.load_baseline = refuse
"""
KILLER = """
import os, signal, pytest

@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item):
    if "quant_rtn" in item.nodeid:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text that leaves windows for tuning."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(document.text for document in generate(3, 1000)))
    return path


@pytest.fixture
def suite(small: SmallSuite, long_text: Path) -> SmallSuite:
    """Return a suite whose model is in nobody's tuned-parameters file."""
    small.text.unlink()
    small.text.symlink_to(long_text)
    small.write(SCENARIOS)
    return small


def plugin(pytester: Pytester, name: str, source: str) -> tuple[str, str]:
    pytester.syspathinsert(pytester.makepyfile(**{name: source}).parent)
    return "-p", name


def document(path: Path) -> JsonObject:
    found: JsonObject = json.loads(path.read_text())
    return found


def test_it_writes_a_file_whatever_the_number_of_workers_and_the_file_is_used(
    pytester: Pytester, suite: SmallSuite
) -> None:
    suite.write((*SCENARIOS, LOW_RANK))
    tune = (f"--proofpack-suite={suite.suite}", "--proofpack-mode=tune")
    alone = pytester.runpytest_subprocess(*tune, "--proofpack-out=alone", "-v")
    pytester.runpytest_subprocess(*tune, "--proofpack-out=two", "-n2")

    assert alone.ret == pytest.ExitCode.OK
    alone.stdout.fnmatch_lines(
        [
            "proofpack: suite small, 3 clean edits to tune of acme/small; tier *; run directory alone",
            "proofpack/small::test_tuning[[]acme/small-quant_rtn[]] PASSED bits *, group_size 32, ffn: ratio *",
            "acme/small quant_rtn: bits *, group_size 32, ffn: ratio * [[]*, *[]]",
            "  next stronger: bits *",
            f"tuned parameters: alone/{FILE}",
            "use them with: pytest * --proofpack-suite=* -v --proofpack-mode=full "
            f"--proofpack-tuned-edit-params=alone/{FILE}",
        ]
    )
    alone.stdout.no_fnmatch_line("*verdict*")
    assert not list(pytester.path.rglob("evaluation.cert.json"))
    assert not (pytester.path / "alone/reports").exists()
    assert not (pytester.path / "alone/proof_pack").exists()
    assert (pytester.path / "alone" / FILE).read_bytes() == (pytester.path / "two" / FILE).read_bytes()

    tuned = document(pytester.path / "alone" / FILE)
    assert schema_findings("tuned_edit_params", tuned) == []
    assert sorted(tuned["models"]["acme/small"]) == ["fp8_quant", "lowrank_svd", "quant_rtn"]
    facts = tuned["_meta"]["tuning"]
    assert facts["tool"]["name"] == "pytest-proofpack"
    tried = facts["models"]["acme/small"]["edits"]["quant_rtn"]["tried"]
    assert all(step.keys() >= {"ratio", "interval", "kl_mean", "failed_gates", "parameters"} for step in tried)
    assert len(facts["models"]["acme/small"]["windows"]["ids_sha256"]) == 64

    options = (f"--proofpack-suite={suite.suite}", f"--proofpack-tuned-edit-params=alone/{FILE}")
    run = pytester.runpytest_subprocess(*options, "--proofpack-out=run")
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(["verdict: PASS"])
    run.stdout.no_fnmatch_line("skipped: *")


def test_a_killed_worker_loses_one_edit_and_what_is_missing_is_made_by_going_on(
    pytester: Pytester, suite: SmallSuite
) -> None:
    tune = (f"--proofpack-suite={suite.suite}", "--proofpack-mode=tune", "--proofpack-out=run")
    killed = pytester.runpytest_subprocess(*tune, "-n2", *plugin(pytester, "killer", KILLER))
    assert killed.ret == pytest.ExitCode.TESTS_FAILED
    killed.stdout.fnmatch_lines(["no file: 1 edits have not been tuned", "go on with: * --proofpack-resume"])
    assert not (pytester.path / "run" / FILE).exists()

    damaged = pytester.path / "run/acme__small/tuning/fp8_quant/tuning.json"
    damaged.write_text(damaged.read_text().replace('"e5m2"', '"e4m3fn"', 1))
    resumed = pytester.runpytest_subprocess(*tune, "--proofpack-resume", "-v")
    assert resumed.ret == pytest.ExitCode.OK
    resumed.stdout.fnmatch_lines(
        [
            "proofpack: resumed: 0 of 2 tuned edits reused; 1 not made yet; 1 made again: it is not as it was written",
        ]
    )
    made = (pytester.path / "run" / FILE).read_bytes()

    again = pytester.runpytest_subprocess(*tune, "--proofpack-resume", "-v", *plugin(pytester, "noload", NO_LOADING))
    assert again.ret == pytest.ExitCode.OK
    again.stdout.fnmatch_lines(["*test_tuning[[]acme/small-quant_rtn[]] PASSED * (reused)*"])
    assert (pytester.path / "run" / FILE).read_bytes() == made

    other = pytester.runpytest_subprocess(*tune[:1], "--proofpack-out=run", "--proofpack-resume")
    assert other.ret == pytest.ExitCode.USAGE_ERROR
    other.stderr.fnmatch_lines(["*run holds another run: tunes was true, is now false*"])


def test_auto_tunes_first_is_interrupted_goes_on_and_certifies(pytester: Pytester, suite: SmallSuite) -> None:
    pytester.makeini("[pytest]\nproofpack_tune = auto")
    options = (f"--proofpack-suite={suite.suite}", "--proofpack-out=run")
    stopped = pytester.runpytest_subprocess(*options, "-n1", *plugin(pytester, "killer", KILLER))
    assert stopped.ret == pytest.ExitCode.USAGE_ERROR
    first = "proofpack: tuning first: 2 clean edits of acme/small have no parameters of their own"
    stopped.stdout.fnmatch_lines([first])
    stopped.stderr.fnmatch_lines(
        [
            "ERROR: --proofpack-tune=auto: the tuning session ended with exit status 1. It went on:",
            "  What it has found is kept; go on with: pytest *--proofpack-resume",
            "  (From tox.ini: proofpack_tune=auto.)",
        ]
    )
    refused = pytester.runpytest_subprocess(*options)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*run is not empty*Or go on with the run in it: --proofpack-resume*"])

    result = pytester.runpytest_subprocess(*options, "--proofpack-resume")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "proofpack: resumed: 1 of 2 tuned edits reused; 1 not made yet",
            "proofpack: tuned acme/small quant_rtn: bits *",
            "proofpack: suite small, 4 certificates of acme/small; tier *; run directory run",
            "verdict: PASS",
        ]
    )
    run = pytester.path / "run"
    tuned, found = document(run / "state" / FILE), document(run / "state/tuning" / FILE)
    assert tuned["models"]["acme/small"] == found["models"]["acme/small"]
    assert tuned["_meta"]["tuning"] == found["_meta"]["tuning"]
    assert tuned["models"]["proofpack/tiny"]["quant_rtn"]["group_size"] == 32  # what was there stays
    entry = tuned["models"]["acme/small"]["quant_rtn"]
    made = certificates(run)
    recorded = made["acme__small/certificates/quant_4bit_clean/run_1"]["provenance"]["edit"]
    assert recorded["parameters"] == {name: entry[name] for name in ("bits", "group_size")}
    assert "state/tuned_edit_params.json" in (run / "proof_pack/manifest.json").read_text()
    assert pytester.runpytest_subprocess("--proofpack-verify=run/proof_pack").ret == pytest.ExitCode.OK

    (run / "acme__small/certificates/quant_4bit_clean/run_1/evaluation.cert.json").unlink()
    before = (run / "state/tuning" / FILE).stat().st_mtime_ns
    resumed = pytester.runpytest_subprocess(*options, "--proofpack-resume")
    assert resumed.ret == pytest.ExitCode.OK
    resumed.stdout.fnmatch_lines(["proofpack: resumed: 3 of 4 certificates reused; 1 not made yet"])
    resumed.stdout.no_fnmatch_line("*tuning first*")
    assert (run / "state/tuning" / FILE).stat().st_mtime_ns == before
    assert {name: {**own, "volatile": None} for name, own in certificates(run).items()} == {
        name: {**own, "volatile": None} for name, own in made.items()
    }


def test_a_text_that_is_too_short_is_refused_before_any_work(pytester: Pytester, suite: SmallSuite) -> None:
    suite.write(SCENARIOS, clean=12)
    result = pytester.runpytest_subprocess(f"--proofpack-suite={suite.suite}", "--proofpack-mode=tune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*text.txt is too short to tune on: the 12 draws of * Supply a text of about *"])


def test_what_is_listed_needs_no_tuning(pytester: Pytester) -> None:
    listed = pytester.runpytest_subprocess("--proofpack-suite=tiny", "--proofpack-tune=auto", "--collect-only", "-q")
    assert listed.ret == pytest.ExitCode.OK
    nothing = pytester.runpytest_subprocess(
        "--proofpack-suite=tiny", "--proofpack-mode=tune", "--proofpack-tune=auto", "--collect-only"
    )
    assert nothing.ret == pytest.ExitCode.USAGE_ERROR
    nothing.stderr.fnmatch_lines(["ERROR: --proofpack-mode=tune: there is nothing to tune: *"])


def test_the_items_of_a_tuning_session_can_be_listed(pytester: Pytester, suite: SmallSuite) -> None:
    options = (f"--proofpack-suite={suite.suite}", "--collect-only", "-q")
    tuning = pytester.runpytest_subprocess(*options, "--proofpack-mode=tune")
    assert [line for line in tuning.outlines if "::" in line] == [
        f"proofpack/small::test_tuning[acme/small-{edit}]" for edit in ("quant_rtn", "fp8_quant")
    ]
    first = pytester.runpytest_subprocess(*options, "--proofpack-tune=auto")
    assert "proofpack/small::test_certificate[acme/small-quant_4bit_clean-run_1]" in first.outlines
    assert not [line for line in first.outlines if "test_tuning" in line]
