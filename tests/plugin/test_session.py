"""Whole sessions in real subprocesses: what a user types, and what they find afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from safetensors import safe_open

from pytest_proofpack.certificate.criteria import criteria
from tests.plugin.conftest import PASSING, UNCAUGHT, SmallSuite, certificates, small_suite

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_sessions")]  # sessions that certify a model

Pytester = pytest.Pytester
ITEMS = len(PASSING) + 1  # and the calibration
TEXTLESS = """
import pytest
from pytest_proofpack.text import windows

def pytest_configure(config):
    if hasattr(config, "workerinput"):
        windows.load_documents = lambda spec: pytest.fail("a worker loads the text")
"""


@dataclass(frozen=True)
class Passed:
    """A finished session of a suite that passes, in one process; tests look at what it left and change nothing."""

    folder: Path
    suite: Path
    result: subprocess.CompletedProcess[str]

    @property
    def lines(self) -> pytest.LineMatcher:
        """What it printed."""
        return pytest.LineMatcher(self.result.stdout.splitlines())


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory, saved_model: Path, sample_text: Path) -> Passed:
    folder = tmp_path_factory.mktemp("passed")
    given = folder / "given"
    given.mkdir()
    small = small_suite(given, saved_model, sample_text)
    small.write(clean=2)
    options = (f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-v", "-o", "xfail_strict=true")
    command = [sys.executable, "-m", "pytest", *options]
    return Passed(folder, small.suite, subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False))


def test_a_passing_suite_leaves_a_pack_that_verifies(pytester: Pytester, passed: Passed) -> None:
    assert passed.result.returncode == pytest.ExitCode.OK
    passed.lines.fnmatch_lines(
        [
            "proofpack: suite small, 8 certificates of acme/small; tier balanced, ratio at most 1.1; run directory run",
            "proofpack/small::test_certificate[[]acme/small-quant_4bit_clean-run_1[]] PASSED ratio * [[]*, *[]]*",
            "proofpack/small::test_certificate[[]acme/small-nan_injection[]] CAUGHT ratio not defined*",
            "proofpack: writing verdict and pack",
            "proofpack/small::verdict PASSED*100%*",
            "verdict: PASS",
            "pack: run/proof_pack",
            "verify it with: proofpack verify run/proof_pack",
        ]
    )
    pack = f"--proofpack-verify={passed.folder / 'run/proof_pack'}"
    verification = pytester.runpytest_subprocess(pack, "--proofpack-json=out.json")
    assert verification.ret == pytest.ExitCode.OK
    verification.assert_outcomes(passed=6 + ITEMS + 2)
    assert json.loads((pytester.path / "out.json").read_text())["ok"] is True


def test_an_informational_scenario_never_fails(passed: Passed) -> None:
    """Not even where pytest is told that what is expected to fail must fail: ``xfail_strict``."""
    outcomes = pytest.RunResult.parse_summary_nouns(passed.result.stdout.splitlines())
    assert outcomes["passed"] == ITEMS + 2  # the verdict is an item too
    assert outcomes["info"] == 1


def test_workers_change_nothing_but_the_volatile_block(pytester: Pytester, passed: Passed) -> None:
    """Nor do they load the text: their windows are those that the controller has cut."""
    pytester.syspathinsert(pytester.makepyfile(textless=TEXTLESS).parent)
    runs = {"0": certificates(passed.folder / "run")}
    for workers in ("1", "2"):
        options = (f"--proofpack-suite={passed.suite}", f"--proofpack-out=run{workers}", "--proofpack-no-pack")
        result = pytester.runpytest_subprocess(*options, "-n", workers, "-p", "textless")
        assert result.ret == pytest.ExitCode.OK
        assert not (pytester.path / f"run{workers}/state/text").exists()
        runs[workers] = certificates(pytester.path / f"run{workers}")
    for made in runs.values():
        for certificate in made.values():
            assert certificate.pop("volatile")["seconds"]
    assert len(runs["0"]) == ITEMS + 2
    assert json.dumps(runs["0"]) == json.dumps(runs["1"]) == json.dumps(runs["2"])

    assert not [*(passed.folder / "run").rglob("*.safetensors")]  # no edited weights, and nobody to share losses with
    (kept,) = (pytester.path / "run2").rglob("windows_43.safetensors")
    assert {path.name for path in (pytester.path / "run2").rglob("*.safetensors")} <= {
        kept.name,
        "windows_44.safetensors",
    }
    with safe_open(kept, framework="numpy") as tensors:
        names = set(tensors.keys())
    assert names == {"preview", "final", "distribution.log_probs", "distribution.token_ids", "distribution.choices"}


def test_a_destructive_edit_that_slips_through_fails_the_run_and_still_leaves_the_pack(
    pytester: Pytester, small: SmallSuite
) -> None:
    small.write(("quant_4bit_clean", UNCAUGHT))
    ours = (f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--junitxml=junit.xml")
    result = pytester.runpytest_subprocess(*ours, "-o", "junit_family=xunit1")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "acme/small, scenario quant_8bit_stress, run 1: must fail, and be seen by one of its detectors.",
            "  measured    ratio *; limit 1.1, * tokens",
            "verdict: FAIL",
            "  stress_required_fail: *",
            "    acme/small: quant_8bit_stress, run 1: ratio *; not caught; all gates hold",
            "FAILED proofpack/small::test_certificate[[]acme/small-quant_8bit_stress-run_1[]]*",
            "FAILED proofpack/small::verdict - verdict: FAIL: acme/small: quant_8bit_*",
        ]
    )
    verdict = json.loads((pytester.path / "run/reports/final_verdict.json").read_text())
    assert verdict["verdict"] == "FAIL"
    assert json.loads((pytester.path / "run/proof_pack/manifest.json").read_text())["verdict"] == "FAIL"
    suite = ElementTree.parse(pytester.path / "junit.xml").getroot().find("testsuite")  # noqa: S314 - our own file
    assert suite is not None
    properties = {entry.get("name"): entry.get("value") for entry in suite.findall("properties/property")}
    assert properties["proofpack_verdict"] == "FAIL"
    assert properties["proofpack_suite"] == "small"
    assert len(properties["proofpack_manifest_sha256"] or "") == 64
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert cases["verdict"].find("failure") is not None
    clean = cases["test_certificate[acme/small-quant_4bit_clean-run_1]"]
    names = [entry.get("name") for entry in clean.findall("properties/property")]
    assert {"proofpack_ratio", "proofpack_interval", "proofpack_certificate_digest"} <= set(names)
    assert len(names) == len(set(names))
    gates = {f"proofpack_{gate.flag}" for judge in criteria() for gate in judge.gates}
    assert gates < set(names)
    told = {entry.get("name"): entry.get("value") for entry in clean.findall("properties/property")}
    kinds = ("proofpack_outcome", "proofpack_scenario_kind", "proofpack_tier", "proofpack_ratio_limit")
    assert [told[name] for name in kinds] == ["PASSED", "clean", "balanced", "1.1"]
    ratio = float(told["proofpack_perplexity"] or 0) / float(told["proofpack_perplexity_baseline"] or 1)
    assert ratio == pytest.approx(float(told["proofpack_ratio"] or 0), abs=1e-6)
    assert float(told["proofpack_kl_mean"] or 1) < 0.2
    assert clean.findtext("system-out") == f"PASSED {told['proofpack']}"
    assert (clean.get("file"), cases["verdict"].get("file")) == ("given/small.toml", "given/small.toml")


def test_an_incomplete_run_is_a_fail(pytester: Pytester, small: SmallSuite) -> None:
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-k", "quant_4bit_clean", "-v"
    )

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1, deselected=ITEMS - 1)
    rest = f"pytest * --proofpack-suite={small.suite} -v --proofpack-out=run --proofpack-resume"
    result.stdout.fnmatch_lines(
        [
            "verdict: INCOMPLETE",
            "*scenario_coverage: 5 of 6 expected certificates are missing",
            f"5 of 6 items were left out by -k, -m, --deselect and the like; make them with: {rest}",
        ]
    )
    assert pytester.runpytest_subprocess("--proofpack-verify=run/proof_pack").ret == pytest.ExitCode.OK


def test_an_empty_run_is_a_fail(pytester: Pytester, small: SmallSuite) -> None:
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-k", "nothing_is_called_so", "-q"
    )

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "nothing is selected: -k, -m, --deselect and the like leave none of the 6 items of suite small. *",
            "nothing was certified, and nothing of this run is left in run",
            "FAILED proofpack/small::verdict - nothing is selected: *",
        ]
    )
    result.stdout.no_fnmatch_line("*MISSING*")
    assert not (pytester.path / "run").exists()


def test_last_failed_reruns_only_what_failed(pytester: Pytester, small: SmallSuite) -> None:
    small.write(("quant_4bit_clean", UNCAUGHT))
    pytester.runpytest_subprocess(f"--proofpack-suite={small.suite}", "--proofpack-out=run1", "--proofpack-no-pack")
    again = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}", "--proofpack-out=run2", "--proofpack-no-pack", "--lf"
    )

    assert list(certificates(pytester.path / "run2")) == ["acme__small/certificates/quant_8bit_stress/run_1"]
    again.assert_outcomes(failed=2, deselected=2)


def test_an_id_from_the_output_can_be_run_by_itself(pytester: Pytester, small: SmallSuite) -> None:
    pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}",
        "--proofpack-out=run",
        "--proofpack-no-pack",
        "proofpack/small::test_certificate[acme/small-shape_mismatch]",
    )

    assert list(certificates(pytester.path / "run")) == ["acme__small/certificates/errors/shape_mismatch"]


KILLER = """
    import os, pathlib, signal, sys, pytest

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_setup(item):
        if "nan_injection" in item.nodeid:
            print("about to die", file=sys.stderr)
            os.write(2, b"and so says a library\\n")
            with pathlib.Path("tries.txt").open("a") as file:
                file.write("x")
            if pathlib.Path("tries.txt").stat().st_size <= int(os.environ["DEATHS"]):
                os.kill(os.getpid(), signal.SIGKILL)
    """


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_killed_worker_loses_nothing_unless_its_item_kills_another(
    pytester: Pytester, small: SmallSuite, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    monkeypatch.setenv("DEATHS", str(deaths))
    monkeypatch.setenv("HF_TOKEN", "hf_thisissecret")
    pytester.syspathinsert(pytester.makepyfile(killer=KILLER).parent)
    ours = f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-n2", "-p", "killer"
    result = pytester.runpytest_subprocess(*ours)

    ends = "orker * ended by signal 9 (SIGKILL) while it made acme/small-nan_injection."
    result.stdout.fnmatch_lines([f"proofpack: W{ends} It is tried once more."])
    run = pytester.path / "run"
    if deaths == 1:
        assert result.ret == pytest.ExitCode.OK
        assert len(certificates(run)) == ITEMS
        assert pytester.runpytest_subprocess("--proofpack-verify=run/proof_pack").ret == pytest.ExitCode.OK
    else:
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert len(certificates(run)) == ITEMS - 1
        said = ["  the end of logs/gw*.log:", "  | about to die", "  | and so says a library"]
        result.stdout.fnmatch_lines([f"W{ends}", *said, f"W{ends}", *said])
        result.stdout.fnmatch_lines(["*scenario_coverage: 1 of 6 expected certificates are missing*"])
    events = [json.loads(line) for path in run.glob("logs/*.jsonl") for line in path.read_text().splitlines()]
    assert sum(event["event"] == "worker ends" and "SIGKILL" in event["how"] for event in events) == deaths
    ended = [event for event in events if event["event"] == "item ends"]
    assert len(ended) == ITEMS - deaths + 1
    assert {event["device"] for event in ended} == {"cpu"}
    assert all(event["memory"]["peak_resident"] > 1e7 and event["outcome"] == "passed" for event in ended)
    assert "hf_thisissecret" not in "".join(path.read_text() for path in run.glob("logs/*"))


def test_a_model_file_that_changes_while_it_is_needed_costs_one_item_and_not_the_run(
    pytester: Pytester, small: SmallSuite
) -> None:
    """There is no room for copies, so every edit is undone from the file, which changes once during a certificate."""
    disturber = pytester.makepyfile(
        disturber=f"""
        import os, pytest

        def pytest_collection_finish():
            from pytest_proofpack.edits import target
            target.room_for_copies = lambda device, left_free: 0.0

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_teardown(item):
            if "fp8_e5m2_clean" in item.nodeid:
                os.utime({str(small.model / "model.safetensors")!r}, ns=(0, 0))
        """
    )
    pytester.syspathinsert(disturber.parent)
    result = pytester.runpytest_subprocess(f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-p", "disturber")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=ITEMS, errors=1)
    assert result.parseoutcomes()["info"] == 1
    result.stdout.fnmatch_lines(
        ["model.safetensors: changed on disk while its model was being edited, so *", "verdict: PASS"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    made = [json.loads(path.read_text()) for path in (pytester.path / "run").rglob("evaluation.cert.json")]
    assert len({certificate["provenance"]["model_digest"]["baseline"] for certificate in made}) == 1


def test_collecting_lists_readable_ids_without_torch(pytester: Pytester, small: SmallSuite) -> None:
    code = f"""
        import sys, pytest
        status = pytest.main(["--proofpack-suite={small.suite}", "--collect-only", "-q"])
        print("torch" in sys.modules, "transformers" in sys.modules, int(status))
    """
    script = pytester.makepyfile(listing=code)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=pytester.path)

    assert "proofpack/small::test_certificate[acme/small-quant_4bit_clean-run_1]\n" in run.stdout
    assert run.stdout.splitlines()[-1] == "False False 0"
    assert not list(pytester.path.glob("proof_pack_runs"))


def test_packaged_suites_can_be_listed_without_their_models(pytester: Pytester) -> None:
    result = pytester.runpytest_subprocess("--proofpack-suite=subset", "--collect-only", "-q")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*test_certificate[[]mistralai/Mistral-7B-v0.1-quant_4bit_clean-run_1[]]"])


def test_users_own_tests_and_conftest_stay_out(pytester: Pytester, small: SmallSuite) -> None:
    pytester.makeconftest("raise RuntimeError('this conftest must not be loaded')")
    pytester.makepyfile(test_mine="def test_mine(): assert False")
    result = pytester.runpytest_subprocess(f"--proofpack-suite={small.suite}", "--collect-only", "-q")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*test_mine*")


def test_without_the_options_nothing_changes(pytester: Pytester) -> None:
    pytester.makepyfile(
        test_mine="""
        import sys
        def test_mine(): assert not {"torch", "numpy", "scipy", "jinja2", "jsonschema"} & set(sys.modules)
        """
    )
    result = pytester.run(sys.executable, "-m", "pytest")

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*proof pack*")
    result.stdout.no_fnmatch_line("proofpack:*")


BREAKS = """
    import logging
    import pytest

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(fixturedef, request):
        made = yield
        if fixturedef.argname == "proofpack_edited" and "fp8_e5m2_stress" in request.node.name:
            logging.getLogger("transformers").warning("a matrix may not fit")
            raise MemoryError("no room for a matrix of 12.3 GiB")
        return made

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(pyfuncitem):
        if "quant_4bit_stress" in pyfuncitem.name:
            raise OSError(28, "No space left on device")
    """


def test_of_an_informational_scenario_only_a_gate_that_fails_is_expected(pytester: Pytester, small: SmallSuite) -> None:
    small.write(("fp8_e5m2_stress", "quant_4bit_stress", "prune_50pct_stress"))
    scenarios = small.folder / "scenarios.json"
    document = json.loads(scenarios.read_text())
    for entry in document["scenarios"]:
        entry["strictness"] = "informational"
        if entry["id"] == "prune_50pct_stress":
            entry["generation"] = {"kind": "edit", "edit_spec": "magnitude_prune:0.95:all"}
    scenarios.write_text(json.dumps(document))
    pytester.syspathinsert(pytester.makepyfile(breaks=BREAKS).parent)
    ours = f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--proofpack-no-pack", "-rx"
    result = pytester.runpytest_subprocess(*ours, "-p", "breaks")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=2, errors=1)  # the verdict is an item too
    assert result.parseoutcomes()["info"] == 1
    result.stdout.fnmatch_lines(
        [
            "*MemoryError: no room for a matrix of 12.3 GiB",
            "*- warnings of libraries -*",
            "transformers: a matrix may not fit",
            "*OSError: [[]Errno 28[]] No space left on device",
            "*scenario_coverage: 2 of 4 expected certificates are missing*",
            "*prune_50pct_stress *INFO *",
        ]
    )
    result.stdout.no_fnmatch_line('{"at": *')  # that is for the files of logs/


def test_no_artifact_tells_where_or_by_whom_it_was_made(passed: Passed, saved_model: Path) -> None:
    secrets = [str(passed.folder), str(saved_model.parent), Path.home().name + "@"]
    files = [path for path in (passed.folder / "run").rglob("*") if path.is_file()]

    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
        assert not path.name.endswith(".tmp")


def test_a_calibration_is_reused_and_not_repeated(pytester: Pytester, small: SmallSuite) -> None:
    first = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}", "--proofpack-out=run1", "--proofpack-mode=calibrate-only"
    )
    second = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}",
        "--proofpack-out=run2",
        "--proofpack-mode=run-only",
        "--proofpack-preset-dir=run1/presets",
    )

    assert (first.ret, second.ret) == (pytest.ExitCode.OK, pytest.ExitCode.OK)
    assert list(certificates(pytester.path / "run1")) == ["acme__small/certificates/calibration/run_1"]
    (preset,) = (pytester.path / "run1" / "presets").iterdir()
    null = json.loads(preset.read_text())["null"]["rmt_log_ratios"]
    assert {group: len(ratios) for group, ratios in null.items()} == {"attn": 24, "ffn": 24}
    found = certificates(pytester.path / "run2")
    assert len(found) == ITEMS - 1
    for certificate in found.values():
        assert certificate["rmt"]["null_log_ratios"] == null
        assert set(certificate["rmt"]["epsilon_source"].values()) <= {"calibrated", "calibrated_ceiling"}
    assert not list((pytester.path / "run2").rglob("null_edge_ratios*"))
