"""``pytest --proofpack-verify`` demands what ``proofpack verify`` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.pack.attest import AttestRequest
from pytest_proofpack.pack.write import PackRequest, write_pack
from tests.support.attest_keys import AttestKey
from tests.support.certificates import make_run_directory
from tests.support.packs import keyring, using


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    return pytester.path


def test_signer_and_attester_are_demanded_by_files(pytester: pytest.Pytester, folder: Path) -> None:
    private, public = AttestKey().write(folder)
    run = make_run_directory(folder / "run")
    with keyring() as ring:
        key = ring.make_key()
        (folder / "maker.asc").write_bytes(ring.gpg("--armor", "--export", key))
        with using(ring):
            attest = AttestRequest(keys=(str(private),))
            write_pack(PackRequest(run.directory, folder / "pack", sign="required", attest=attest, html=False))
    demands = ("--proofpack-verify=pack", "--proofpack-trusted-key-file=maker.asc")

    good = pytester.runpytest_inprocess(*demands, f"--proofpack-attest-key={public}")
    assert good.ret == pytest.ExitCode.OK
    good.stdout.fnmatch_lines(
        [f"signature: signed by {key}, pinned, at 20*Z", "attestation: attested by key *, pinned"]
    )

    _, another = AttestKey().write(folder)
    bad = pytester.runpytest_inprocess(*demands, f"--proofpack-attest-key={another}")
    assert bad.ret == pytest.ExitCode.TESTS_FAILED
    bad.stdout.fnmatch_lines(["*the attestation is by none of the trusted keys*", "*the pack does NOT prove*"])


def test_what_a_model_is_called_is_no_command_of_a_ci_system(pytester: pytest.Pytester, folder: Path) -> None:
    run = make_run_directory(folder / "run", model_ids=["::error title=proofpack::##[error]all good"])
    write_pack(PackRequest(run.directory, folder / "pack", sign="off", html=False))
    done = pytester.runpytest_inprocess(
        "--proofpack-verify=pack", "--proofpack-expect-model=acme/a\n::stop-commands::x"
    )
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert any(r"\x23#[error]all good" in line for line in done.outlines)
    for line in (*done.outlines, *done.errlines):
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
        assert "##vso[" not in line


def test_what_an_ini_file_demands_is_named_and_nothing_else_of_it(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pack(PackRequest(make_run_directory(folder / "run").directory, folder / "pack", sign="off", html=False))
    pytester.makeini("[pytest]\nproofpack_accept_unbound = 1\nproofpack_tier = aggressive\nproofpack_min_format = 2\n")
    monkeypatch.setenv("INVARLOCK_TIER", "aggressive")

    done = pytester.runpytest_inprocess("--proofpack-verify=pack", "--proofpack-min-format=1")

    done.stdout.fnmatch_lines(["*= proof pack =*", "from tox.ini: proofpack_accept_unbound=1"])


def test_an_option_that_cannot_be_used_is_told_in_lines_that_nothing_obeys(pytester: pytest.Pytester) -> None:
    done = pytester.runpytest_inprocess("--proofpack-verify=no\x1b[2J\n::error::x\nVERIFIED")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    told = [line for line in done.errlines if line]
    assert any(r"no\x1b[2J" in line for line in told)
    assert not any(line.lstrip().startswith(("::", "ERROR: ::")) or line.startswith("VERIFIED") for line in told)


def test_a_run_is_no_pack_but_holds_one_and_an_unsigned_one_is_called_so_once(
    pytester: pytest.Pytester, folder: Path
) -> None:
    run = make_run_directory(folder / "run")
    write_pack(PackRequest(run.directory, run.directory / "proof_pack", sign="off", html=False))
    (folder / "file").touch()

    inside = pytester.runpytest_inprocess("--proofpack-verify=run", "-q")
    assert inside.ret == pytest.ExitCode.TESTS_FAILED
    inside.stdout.fnmatch_lines(["this is no pack; there is one in it: run/proof_pack"])

    pack = pytester.runpytest_inprocess("--proofpack-verify=run/proof_pack", "-q", "--proofpack-json=file/out.json")
    assert pack.ret == pytest.ExitCode.USAGE_ERROR
    pack.stdout.fnmatch_lines(
        ["verification: everything that the pack claims holds", "--proofpack-json: *out.json: cannot be written (*"]
    )
    assert pack.stdout.str().count("nothing tells who made") == 1
