"""Sessions that go on where an earlier one was killed, stopped, or left something undone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from filelock import FileLock

from pytest_proofpack.common.strict_json import JsonObject
from tests.plugin.conftest import PASSING, UNCAUGHT, SmallSuite, certificates
from tests.support.warm_sessions import run_pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_sessions")]  # sessions that certify a model

Pytester = pytest.Pytester
ITEMS = len(PASSING) + 2  # the calibration, and the scenario that fails
NO_LOADING = """
import pytest_proofpack.engine.baseline

def refuse(*_args):
    raise pytest_proofpack.engine.baseline.EvaluationError("a model was to be loaded")

pytest_proofpack.engine.baseline.load_baseline = refuse
"""
"""A plugin with which every item fails that loads a model."""


@dataclass(frozen=True)
class Finished:
    """A run that nobody interrupted, and the options that it was made with."""

    options: tuple[str, ...]
    directory: Path
    junit: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, saved_model: Path, sample_text: Path) -> Finished:
    """Return a complete run, with a scenario that fails; tests do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "model").symlink_to(saved_model)
    (folder / "text.txt").symlink_to(sample_text)
    suite = SmallSuite(folder, folder / "small.toml", folder / "model", folder / "text.txt")
    suite.write((*PASSING, UNCAUGHT))
    options = (f"--proofpack-suite={suite.suite}", "--proofpack-no-html")
    result = run_pytest(folder, *options, "--proofpack-out=run", "-n1", "--junitxml=junit.xml")
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    return Finished(options, folder / "run", folder / "junit.xml")


@pytest.fixture
def copy(pytester: Pytester, finished: Finished) -> Path:
    """Return a copy of the complete run, in the current directory."""
    return Path(shutil.copytree(finished.directory, pytester.path / "run"))


def go_on(pytester: Pytester, finished: Finished, *options: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(*finished.options, "--proofpack-out=run", "--proofpack-resume", *options)


def without_loading(pytester: Pytester) -> tuple[str, str]:
    pytester.syspathinsert(pytester.makepyfile(noloading=NO_LOADING).parent)
    return "-p", "noloading"


def stable(run: Path) -> dict[str, JsonObject]:
    return {name: {**certificate, "volatile": None} for name, certificate in certificates(run).items()}


def cases(junit: Path) -> Iterator[tuple[str, dict[str | None, str | None], list[str]]]:
    for case in ElementTree.parse(junit).iter("testcase"):  # noqa: S314 - our own file
        properties = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
        texts = [
            *(failure.text or "" for failure in case.iter("failure")),
            *(skip.tag for skip in case.iter("skipped")),
        ]
        yield case.get("name") or "", properties, texts


def kill_in_the_middle(pytester: Pytester, finished: Finished) -> int:
    """Begin a run, kill its controller once two certificates are there, and return how many there are."""
    command = [sys.executable, "-m", "pytest", *finished.options, "--proofpack-out=run", "-n2"]
    session = subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(certificates(pytester.path / "run")) < 2:
        assert session.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(session.pid, signal.SIGKILL)
    session.wait()
    return len(certificates(pytester.path / "run"))


def test_after_a_kill_only_what_is_missing_is_made(pytester: Pytester, finished: Finished) -> None:
    kept = kill_in_the_middle(pytester, finished)
    run = pytester.path / "run"
    (run / "state/.run.json.abcdefgh.tmp").write_text("{")
    (run / ".proof_pack.01234567.tmp/certs").mkdir(parents=True)
    baseline = next(run.glob("*/baseline/windows_43.safetensors")).stat()
    assert len([*(run / "state/text").iterdir()]) == 1
    result = go_on(pytester, finished, "-n2", "-v")

    assert 2 <= kept < ITEMS
    result.stdout.fnmatch_lines(
        [f"proofpack: resumed: {kept} of {ITEMS} certificates reused; {ITEMS - kept} not made yet"]
    )
    assert sum("(reused)" in line for line in result.outlines) == kept
    assert stable(run) == stable(finished.directory)
    session = json.loads((run / "state/run.json").read_text())
    assert session["started_at"] <= session["resumed_at"][0]
    assert next(run.glob("*/baseline/windows_43.safetensors")).stat().st_mtime_ns == baseline.st_mtime_ns
    assert not list(run.rglob("*.tmp"))
    assert not (run / "state/text").exists()
    assert (run / "proof_pack/manifest.json").is_file()


def test_what_is_all_there_is_reported_and_packed_again_and_no_model_is_loaded(
    pytester: Pytester, finished: Finished, copy: Path
) -> None:
    before = certificates(copy)
    pack = (copy / "proof_pack").stat().st_ino
    result = go_on(pytester, finished, "-n1", "--junitxml=junit.xml", *without_loading(pytester))

    assert result.parseoutcomes()["info"] == 1
    result.assert_outcomes(passed=ITEMS - 2, failed=2)  # the scenario that fails does so again
    result.stdout.fnmatch_lines(
        [
            f"proofpack: resumed: {ITEMS} of {ITEMS} certificates reused",
            "acme/small, scenario quant_8bit_stress, run 1: must fail, and be seen by one of its detectors.",
            "  stress_required_fail: *",
            "pack: run/proof_pack",
        ]
    )
    result.stdout.no_fnmatch_line("go on with: *")
    assert certificates(copy) == before
    assert (copy / "proof_pack").stat().st_ino != pack
    assert not list(copy.rglob("*.tmp"))
    old, new = (
        {name: ({**properties, "proofpack_reused": "True"}, texts) for name, properties, texts in cases(junit)}
        for junit in (finished.junit, pytester.path / "junit.xml")
    )
    assert len(old) == ITEMS + 1
    assert {**old, "verdict": None} == {**new, "verdict": None}
    assert all(
        "proofpack_reused" in properties
        for name, properties, _ in cases(pytester.path / "junit.xml")
        if name != "verdict"
    )


def test_what_was_changed_is_made_again_and_nothing_else(pytester: Pytester, finished: Finished, copy: Path) -> None:
    path = copy / "acme__small/certificates/fp8_e5m2_clean/run_1/evaluation.cert.json"
    certificate = json.loads(path.read_text())
    certificate["primary_metric"]["tokens"] += 1
    path.write_text(json.dumps(certificate))
    result = go_on(pytester, finished, "-v")

    result.stdout.fnmatch_lines(
        [f"proofpack: resumed: {ITEMS - 1} of {ITEMS} certificates reused; 1 made again: its *"]
    )
    assert sum("(reused)" in line for line in result.outlines) == ITEMS - 1
    assert stable(copy) == stable(finished.directory)


def test_what_is_not_made_again_does_not_count_and_says_how_to_go_on(
    pytester: Pytester, finished: Finished, copy: Path
) -> None:
    before = certificates(copy)
    manifest = (copy / "proof_pack/manifest.json").read_bytes()
    other = pytester.path / "other.txt"
    other.write_text((finished.directory.parent / "text.txt").read_text() + "\n\nOne more document.")
    result = go_on(pytester, finished, f"--proofpack-text={other}", *without_loading(pytester))

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            f"proofpack: resumed: 0 of {ITEMS} certificates reused; {ITEMS} made again: its text differs",
            "*a model was to be loaded",
            f"*scenario_coverage: {ITEMS} of {ITEMS} expected certificates are missing*",
            f"no pack: {ITEMS} certificates are not valid any more and were not made again",
            f"go on with: pytest * {finished.options[0]} * --proofpack-out=run --proofpack-resume",
        ]
    )
    assert certificates(copy) == before  # with the right text, they are still good
    assert (copy / "proof_pack/manifest.json").read_bytes() == manifest


def test_a_session_that_selects_nothing_leaves_results_as_they_are(
    pytester: Pytester, finished: Finished, copy: Path
) -> None:
    def results() -> dict[Path, bytes]:
        places = ("reports", "proof_pack", "acme__small/certificates")
        return {path: path.read_bytes() for place in places for path in (copy / place).rglob("*") if path.is_file()}

    before = results()
    result = go_on(pytester, finished, "-k", "nothing_is_called_so")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["nothing was certified; run keeps what earlier sessions have left there"])
    assert results() == before


def test_an_interrupted_session_says_how_to_go_on(pytester: Pytester, finished: Finished) -> None:
    result = pytester.runpytest_subprocess(*finished.options, "--proofpack-out=run", "-x", *without_loading(pytester))

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["go on with: pytest * -x -p noloading --proofpack-out=run --proofpack-resume"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--proofpack-tier=conservative",
            '*holds another run: tier was "balanced", is now "cons*',
        ),
        ("--proofpack-runs=clean:2", "*holds another run: scenarios.plan.runs.clean was 1, is now 2.*"),
    ],
)
def test_another_run_is_refused(pytester: Pytester, finished: Finished, copy: Path, option: str, message: str) -> None:
    result = go_on(pytester, finished, option)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_two_sessions_cannot_write_one_directory(pytester: Pytester, finished: Finished, copy: Path) -> None:
    with FileLock(copy / ".session.lock"):
        result = go_on(pytester, finished)
        fresh = pytester.path / "fresh"
        fresh.mkdir()
        with FileLock(fresh / ".session.lock"):
            new = pytester.runpytest_subprocess(*finished.options, "--proofpack-out=fresh")

    assert result.ret == new.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-out: another session is at work in *run. Wait for its end*"])
    new.stderr.fnmatch_lines(["ERROR: --proofpack-out: another session is at work in *fresh. Wait for its end*"])


def test_directories_that_hold_something_else_are_refused(pytester: Pytester, finished: Finished, copy: Path) -> None:
    (copy / "proof_pack/notes.txt").write_text("mine")
    result = go_on(pytester, finished)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --proofpack-pack-dir: * only a whole pack of this run would be replaced: *notes*"]
    )

    (copy / "state/run.json").unlink()
    result = go_on(pytester, finished)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-out: *run is not empty*It holds no run to go on with*"])


def test_a_directory_is_needed_to_go_on(pytester: Pytester, finished: Finished) -> None:
    result = pytester.runpytest_subprocess(*finished.options, "--proofpack-resume")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-resume: name the directory to go on with by --proofpack-out=DIR."])
