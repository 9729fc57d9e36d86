"""Extensions in real sessions: loaded, named in the header, told what was stored; and what every session lists."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.plugin.conftest import SmallSuite, certificates

pytestmark = pytest.mark.usefixtures("warm_sessions")

Pytester = pytest.Pytester
ONE_EDIT = "--proofpack-runs=calibration:0,clean:1,stress:0,error:0"

OF_THE_SUITE = """
import os

def pytest_proofpack_register(registry):
    with open("registered.txt", "a") as file:
        print(os.environ.get("PYTEST_XDIST_WORKER", "controller"), type(registry).__name__, file=file)
"""
LISTENER = """
import json, os

def pytest_proofpack_certificate(certificate, request):
    line = request.id, certificate["certificate_digest"], os.environ.get("PYTEST_XDIST_WORKER")
    certificate.clear()
    with open("stored.txt", "a") as file:
        print(json.dumps(line), file=file)

def pytest_proofpack_verdict(verdict, pack):
    with open("verdict.txt", "a") as file:
        print(verdict["verdict"], pack.directory.name, pack.manifest_sha256, file=file)
    verdict.clear()
"""
OWN_TEST = """
def test_the_edited_model_still_answers(proofpack_request, proofpack_edited):
    assert proofpack_request.model.id == "acme/small"
    assert proofpack_edited.model.config.vocab_size > 0
"""


@pytest.fixture
def extended(pytester: Pytester, small: SmallSuite, monkeypatch: pytest.MonkeyPatch) -> SmallSuite:
    """A suite of one edit that brings a file of code along."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of these tests
    small.write(("quant_4bit_clean",))
    (small.folder / "my_edits.py").write_text(OF_THE_SUITE)
    small.suite.write_text('extensions = ["my_edits.py"]\n' + small.suite.read_text())
    pytester.syspathinsert(pytester.makepyfile(listener=LISTENER).parent)
    return small


def test_extensions_take_part_in_a_session(pytester: Pytester, extended: SmallSuite) -> None:
    pytester.makepyfile(test_mine=OWN_TEST)
    suite = f"--proofpack-suite={extended.suite}"
    anchor = "proofpack/small::test_certificate"
    result = pytester.runpytest_subprocess(
        suite, "--proofpack-out=run", ONE_EDIT, "-n1", "-p", "listener", anchor, "test_mine.py"
    )

    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    result.assert_outcomes(passed=3)  # the certificate, the user's own test of the same model, the verdict
    digest = hashlib.sha256(OF_THE_SUITE.encode()).hexdigest()
    result.stdout.fnmatch_lines([f"proofpack: extensions: my_edits.py (sha256 {digest[:12]})"])
    # What only listens is no extension: it can change nothing that is certified.
    assert (pytester.path / "registered.txt").read_text() == "controller Registries\ngw0 Registries\n"
    ((folder, certificate),) = certificates(pytester.path / "run").items()
    assert folder.endswith("quant_4bit_clean/run_1")
    (stored,) = map(json.loads, (pytester.path / "stored.txt").read_text().splitlines())
    assert stored == ["acme/small-quant_4bit_clean-run_1", certificate["certificate_digest"], None]
    manifest = (pytester.path / "run/proof_pack/manifest.json").read_bytes()
    told = (pytester.path / "verdict.txt").read_text().split()
    assert told == ["PASS", "proof_pack", hashlib.sha256(manifest).hexdigest()]
    assert json.loads((pytester.path / "run/reports/final_verdict.json").read_bytes())["verdict"] == "PASS"


def test_a_worker_whose_file_differs_refuses(pytester: Pytester, extended: SmallSuite) -> None:
    changer = f"""
        import pathlib, pytest

        @pytest.hookimpl(optionalhook=True)
        def pytest_configure_node(node):
            with pathlib.Path({str(extended.folder / "my_edits.py")!r}).open("a") as file:
                print("# something else", file=file)
        """
    pytester.makepyfile(changer=changer)
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={extended.suite}", "--proofpack-out=run", ONE_EDIT, "-n1", "-p", "changer",
        "--max-worker-restart=0",
    )  # fmt: skip

    assert result.ret != pytest.ExitCode.OK
    output = result.stdout.str() + result.stderr.str()
    assert "extensions differ between the session and this worker: the session has my_edits.py" in output
    assert not certificates(pytester.path / "run")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "extension my_edits.py: No such file or directory. Paths in a suite's extensions are relative to its*"),
        ("1 / 0", "extension my_edits.py cannot be loaded (ZeroDivisionError: division by zero)."),
        ("def (", "extension my_edits.py cannot be loaded (SyntaxError: *"),
    ],
)
def test_a_file_that_cannot_be_loaded_ends_the_session(
    pytester: Pytester, extended: SmallSuite, source: str | None, message: str
) -> None:
    path = extended.folder / "my_edits.py"
    path.unlink()
    if source is not None:
        path.write_text(source)
    result = pytester.runpytest_inprocess(f"--proofpack-suite={extended.suite}", "--collect-only")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_an_installed_one_that_cannot_be_loaded_is_named_and_can_be_left_out(
    pytester: Pytester, small: SmallSuite
) -> None:
    installed = pytester.mkdir("broken-1.0.dist-info")
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[pytest_proofpack]\nbroken = no_such_module\n")
    pytester.syspathinsert(pytester.path)
    options = (f"--proofpack-suite={small.suite}", "--collect-only", "-q")
    result = pytester.runpytest_inprocess(*options)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the installed extension broken cannot be loaded (ModuleNotFoundError: *"])
    assert pytester.runpytest_inprocess(*options, "-p", "no:broken").ret == pytest.ExitCode.OK


def test_every_session_lists_markers_and_fixtures(pytester: Pytester) -> None:
    markers = pytester.runpytest_inprocess("--markers")
    markers.stdout.fnmatch_lines(["@pytest.mark.proofpack_clean: an edit that must pass every gate"])
    fixtures = pytester.runpytest_inprocess("--fixtures")
    fixtures.stdout.fnmatch_lines(
        ["proofpack_request -- *", "proofpack_baseline -- *", "proofpack_edited -- *", "proofpack_certify -- *"]
    )
    fixtures.stdout.no_fnmatch_line("*_proofpack_source*")


def test_without_a_suite_a_fixture_says_what_it_needs(pytester: Pytester) -> None:
    pytester.makepyfile(test_mine=OWN_TEST)
    result = pytester.runpytest_inprocess("test_mine.py")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["proofpack_request and what depends on it are there only in a session with*"])
