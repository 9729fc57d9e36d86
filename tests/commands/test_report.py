"""``proofpack report``: the pages made again, from a pack and from a run directory."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from pytest_proofpack.commands.main import main
from tests.support.certificates import RunFiles, make_run_directory
from tests.support.markup import Page
from tests.support.packs import copy_of, pack_of
from tests.support.tampering import as_invarlock

CERTIFICATE = "certs/acme__tiny-1m/quant_4bit_clean/run_1/evaluation.cert.json"


@pytest.fixture(autouse=True)
def import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command takes the working directory off it


@pytest.fixture(scope="module")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    return make_run_directory(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def pack(run_files: RunFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_of(run_files.directory, tmp_path_factory.mktemp("pack") / "pack", html=True)


def files_of(directory: Path, pattern: str) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob(pattern)}


def test_pages_of_a_pack_are_made_again_byte_by_byte(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(pack), f"--output={tmp_path / 'pages'}"]) == 0
    said = capsys.readouterr().out
    assert "19 pages: " in said
    assert "Nothing was verified" in said
    assert files_of(tmp_path / "pages", "*.html") == files_of(pack, "*.html")
    assert files_of(tmp_path / "pages", "*.json") == files_of(pack, "evaluation.cert.json")  # the pages link them


def test_every_link_leads_to_a_file_of_the_pack_and_back(pack: Path) -> None:
    index = pack / "index.html"
    pages = [path for path in pack.rglob("*.html") if path != index]
    leads = {path: [(path.parent / unquote(url)).resolve() for url in Page(path.read_text()).urls] for path in pages}
    assert all(target.is_file() for targets in leads.values() for target in targets)
    assert all(index in targets for targets in leads.values())
    assert {(pack / unquote(url)).resolve() for url in Page(index.read_text()).urls} == set(pages)


def test_pages_of_an_unfinished_run_say_what_is_missing(run_files: RunFiles, tmp_path: Path) -> None:
    run = copy_of(run_files.directory, tmp_path / "run")
    shutil.rmtree(run / "reports")
    next(run.glob("*/certificates/errors/nan_injection/evaluation.cert.json")).unlink()
    assert main(["report", str(run)]) == 0
    index = (tmp_path / "run_pages/index.html").read_text()
    assert "MISSING" in index
    assert "17 of 18 expected certificates" in index
    assert files_of(tmp_path / "run_pages", "evaluation.html").keys() == {
        path.replace(".cert.json", ".html") for path in files_of(tmp_path / "run_pages", "evaluation.cert.json")
    }


def test_nothing_is_overwritten_and_no_pack_changed(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("precious")
    for target, why in ((tmp_path, "is not empty"), (pack / "pages", "lies inside"), (tmp_path / "mine", "not empty")):
        assert main(["report", str(pack), f"--output={target}"]) == 2
        assert why in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"


def test_what_holds_no_pages_is_refused(pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"--output={tmp_path / 'pages'}"
    as_invarlock(unbound := copy_of(pack, tmp_path / "unbound"), lambda name: name.endswith(".cert.json"))
    for directory, status, why in (
        (pack / "results", 2, "holds neither manifest.json nor state/scenarios.json"),
        (tmp_path / "none", 2, "there is no such directory"),
        (unbound, 1, "a pack of InvarLock 0.3.7"),
    ):
        assert main(["report", str(directory), output]) == status
        assert why in capsys.readouterr().err
    damaged = copy_of(pack, tmp_path / "damaged")
    document = json.loads((damaged / CERTIFICATE).read_bytes())
    del document["rmt"]["families"]
    (damaged / CERTIFICATE).write_text(json.dumps(document))
    assert main(["report", str(damaged), output]) == 1
    assert "verify it to see why" in capsys.readouterr().err
    assert not (tmp_path / "pages").exists()
