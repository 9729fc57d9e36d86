"""Packs of an earlier format are compared, shown and judged again like any other."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.results.conftest import Command

STORED = Path(__file__).parents[1] / "packs"
KEY = f"--trusted-key-file={STORED / 'signing-key.asc'}"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(STORED / "tiny-0.1.0-format1.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "proof_pack"


def test_judged_again_by_its_own_tier_it_is_what_it_was(
    proofpack: Command, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proofpack("rejudge", stored, KEY, "--tier=balanced", "--format=json") == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["certificates"]) == 22
    for one in document["certificates"]:
        assert one["after"] == one["before"]
        assert one["kept"] == []


def test_compared_with_itself(proofpack: Command, stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert proofpack("compare", stored, stored, KEY, "--max-regression=0") == 0
    assert "No regression: 17 same." in capsys.readouterr().out
