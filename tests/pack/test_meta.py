"""Facts that the maker states: bound by the manifest, told by whoever verifies, and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.commands.main import main
from pytest_proofpack.pack.write import PackRequest, write_pack
from tests.support.certificates import RunFiles
from tests.support.forgery import change_document, reseal, rewrite_checksums
from tests.support.packs import copy_of

META = {"commit": "5" * 40, "run_url": "https://ci.example/7", "note": "a\u202eb|`"}


@pytest.fixture(scope="module")
def original(run_files: RunFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("stated") / "pack"
    return write_pack(PackRequest(run_files.directory, target, html=False, meta=META)).directory


@pytest.fixture
def stated(original: Path, tmp_path: Path) -> Path:
    return copy_of(original, tmp_path / "pack")


def test_it_is_told_and_bound(stated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(stated)]) == 0
    told = capsys.readouterr().out
    assert f"stated        commit={'5' * 40} (its maker's word)" in told
    assert "note=a\\u202eb|`" in told
    assert main(["show", str(stated)]) == 0
    assert "- `note`: `a\\u202eb\\x7c\\x60`" in capsys.readouterr().out
    change_document(stated / "manifest.json", lambda manifest: manifest["meta"].update(commit="6" * 40))
    rewrite_checksums(stated)
    assert main(["verify", str(stated)]) == 0  # unsigned: a fact is what whoever wrote the manifest says


@pytest.mark.parametrize("meta", [{}, {"": "1"}, {"a b": "1"}, {"a": ""}, {"a": 1}, {"a": "x" * 401}, []])
def test_what_no_maker_writes_is_refused(stated: Path, meta: object, capsys: pytest.CaptureFixture[str]) -> None:
    reseal(stated, lambda manifest: manifest.update(meta=meta))
    assert main(["verify", str(stated)]) == 1
    assert "manifest.json: meta" in capsys.readouterr().out


def test_format_1_had_none(stated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reseal(stated, lambda manifest: manifest.update(schema_version=1))
    assert main(["verify", str(stated)]) == 1
    assert "manifest.json: schema_version: 2 was expected" in capsys.readouterr().out
