"""Nothing that the sub-commands print is obeyed by a terminal or a CI system, or passes for a line of ours."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_proofpack.commands import output
from pytest_proofpack.commands.main import main
from pytest_proofpack.commands.output import HarmlessStream
from pytest_proofpack.pack.attestations.bundle import bundle_json
from pytest_proofpack.pack.attestations.statement import make_statement
from pytest_proofpack.pack.check_attestation import configuration_of
from pytest_proofpack.pack.verify import PackVerifier
from tests.results.conftest import few_certificates
from tests.support.certificates import make_run_directory
from tests.support.forgery import reseal, rewrite_checksums
from tests.support.packs import pack_of

COMMAND = "::error title=proofpack::##vso[task.complete result=Succeeded]all good"
BLANK = "\u2800"
FAKES = ("Signed by", "VERIFIED: all", "demand")


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def obeyed(text: str) -> Iterator[str]:
    """Yield the lines that a terminal, GitHub or Azure would obey."""
    for line in text.split("\n"):
        if not line.isprintable() or line.lstrip().startswith("::") or "##vso[" in line or "##[" in line:
            yield line


def test_a_stream_writes_whole_lines_without_commands() -> None:
    kept = io.StringIO()
    stream = HarmlessStream(kept)
    print("a", COMMAND, 1, file=stream)
    print(" :", end="", file=stream)
    assert kept.getvalue().count("\n") == 1
    print(":stop-commands::x\x1b[2J", file=stream)
    stream.write("a,b\r\n:")
    stream.flush()
    assert kept.getvalue().split("\n") == [
        r"a ::error title=proofpack::\u0023#vso[task.complete result=Succeeded]all good 1",
        r" \u003a:stop-commands::x\u001b[2J",
        "a,b\r",
        ":",
    ]


def test_an_error_is_escaped_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "no\x1b[31m\n::error::x\nVERIFIED")]) == 2
    said = capsys.readouterr().err
    assert r"no\u001b[31m" in said or r"no\x1b[31m" in said
    assert not list(obeyed(said.removesuffix("\n")))
    assert "\nVERIFIED" not in said


def test_a_key_of_a_stranger_s_is_escaped_where_a_schema_finds_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('["\\u001b[2J\\n::error::x"]\na = 1\n', encoding="utf-8")
    main(["rejudge", str(tmp_path), f"--policy={policy}"])
    assert not list(obeyed(capsys.readouterr().err.removesuffix("\n")))


def test_a_pack_of_a_model_that_is_called_like_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = pack_of(few_certificates(tmp_path / "run", model_ids=[COMMAND]), tmp_path / "pack")
    said = {}
    for arguments in (["verify"], ["show", "--format=text"], ["show", "--format=json"], ["export", "--format=csv"]):
        assert main([arguments[0], str(pack), *arguments[1:]]) == 0
        said[arguments[-1]] = capsys.readouterr().out.replace("\r", "")
        assert not list(obeyed(said[arguments[-1]].removesuffix("\n"))), arguments
    assert json.loads(said["--format=json"])["certificates"][0]["model"] == COMMAND


def test_no_line_of_a_stranger_begins_where_ours_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "columns", lambda *_: 80)
    pack = pack_of(make_run_directory(tmp_path / "run").directory, tmp_path / "pack")
    fake = "x" + BLANK * 64 + "demand" + BLANK * 8 + "met" + BLANK * 10 + "trusted-key=52DD"
    reseal(pack, lambda manifest: manifest.update(meta={"ci": fake, "by": "\u65e5" * 33 + "VERIFIED: all"}))
    attest(pack, "1" + " " * 50 + "Signed by 52DD, pinned." + " " * 21 + "VERIFIED:")
    assert main(["verify", str(pack)]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert [line for line in lines if line.startswith(FAKES)] == [
        "VERIFIED: all that this pack claims holds; its verdict is PASS."
    ]
    assert max(map(len, lines)) <= 80


def attest(pack: Path, hint: str) -> None:
    """Put an attestation with this hint into a pack; nobody has signed it."""
    verifier = PackVerifier(pack)
    assert verifier.report().ok
    structure = verifier._proved.structure
    assert structure is not None
    assert structure.manifest is not None
    statement = make_statement(
        (pack / "manifest.json").read_bytes(),
        configuration_of(structure.manifest.digests, structure.layout),
        structure.documents[structure.layout.verdict],
        structure.certificate_documents.values(),
    )
    bundle = bundle_json(json.dumps(statement).encode(), b"x" * 70, hint)
    (pack / "manifest.json.sigstore.json").write_bytes(bundle)
    rewrite_checksums(pack)
