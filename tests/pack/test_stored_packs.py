"""Packs that earlier versions of this package have made, and signed, verify for ever; what they lack is said."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_proofpack.certificate.formats import FORMAT_1
from pytest_proofpack.certificate.older import gates_lacking
from pytest_proofpack.commands.main import main as proofpack
from pytest_proofpack.commands.verify import main
from pytest_proofpack.common.strict_json import read_json
from tests.support.packs import keyring, using

Unpacked = Callable[[str], Path]

STORED = Path(__file__).parents[1] / "packs"
SIGNER = "4F9E776926E651494ACB8865EC1A1F0945D173FC"
OF_FORMAT_1 = "tiny-0.1.0-format1.tar.xz"
BY_GATES = ("require-verdict=PASS", "expect-suite=tiny", "min-tier=aggressive")
LACKING = f"its certificates are of format 1, which lacks the gates {', '.join(gates_lacking(FORMAT_1))} and "


@pytest.fixture(scope="module", autouse=True)
def _key_of_the_maker() -> Iterator[None]:
    with keyring() as ring, using(ring):
        ring.gpg("--import", data=(STORED / "signing-key.asc").read_bytes())
        yield


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    known: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in known:
            known[name] = tmp_path_factory.mktemp("stored") / "proof_pack"
            with tarfile.open(STORED / name) as tar:
                tar.extractall(known[name].parent, filter="data")
        return known[name]

    return unpack


@pytest.mark.parametrize("name", sorted(path.name for path in STORED.glob("*.tar.xz")))
def test_a_pack_of_an_earlier_version_verifies(
    name: str, unpacked: Unpacked, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(unpacked(name)), f"--trusted-key={SIGNER}"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    end = printed.partition("VERIFIED: all that this pack claims holds")[2].split("\n")
    told = "Not covered: what gates of later formats would say: format 1 lacks the gates "
    lines = [line for line in end if line.startswith(told)]
    assert len(lines) == (name == OF_FORMAT_1)
    certificate = read_json(next(unpacked(name).rglob("evaluation.cert.json")))
    assert not any(flag in line for flag in certificate["validation"] for line in lines)


def test_there_is_one() -> None:
    assert (STORED / OF_FORMAT_1).is_file()


def test_format_1_meets_no_demand_on_what_gates_said(unpacked: Unpacked, capsys: pytest.CaptureFixture[str]) -> None:
    demands = [f"--{demand}" for demand in (*BY_GATES, "min-format=2", "expect-model=proofpack/tiny")]
    assert main([str(unpacked(OF_FORMAT_1)), *demands]) == 3
    printed = capsys.readouterr().out
    for demand in BY_GATES:
        line = printed.partition(f"NOT MET      {demand}: {LACKING}")[2].partition("\n")[0]
        assert line.endswith("accept it as it is with min-format=1")
    assert f"NOT MET      min-format=2: {LACKING}" in printed
    assert "(4 of 5 demands not met)" in printed


def test_who_accepts_format_1_says_so(unpacked: Unpacked, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--require-verdict=PASS", "--min-tier=balanced", "--min-format=1"]
    assert main([str(unpacked(OF_FORMAT_1)), *options]) == 0
    assert f"met          min-format=1: {LACKING}" in capsys.readouterr().out


def test_no_view_of_one_of_its_certificates_hides_that(unpacked: Unpacked, capsys: pytest.CaptureFixture[str]) -> None:
    certificate = next(unpacked(OF_FORMAT_1).glob("certs/*/quant_4bit_clean/run_1/evaluation.cert.json"))
    for view in (("show", "--format=text"), ("show", "--format=markdown"), ("export", "--format=model-card")):
        assert proofpack([view[0], str(certificate), *view[1:]]) == 0
        assert LACKING.removeprefix("its certificates are of ") in " ".join(capsys.readouterr().out.split())
