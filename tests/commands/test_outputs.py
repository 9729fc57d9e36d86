"""No command writes into a pack, which would not verify any more, be it the one that is read or another."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_proofpack.commands.main import main
from pytest_proofpack.pack.layout import CONTROL_FILES
from tests.support.forgery import files_of


@pytest.mark.parametrize(
    "command",
    [
        ["report", "{read}", "--output={other}/pages"],
        ["show", "{read}", "--output={other}/table.md"],
        ["export", "{read}", "--format=csv", "--output={other}/certs/table.csv"],
        ["compare", "{read}", "{read}", "--output={other}/table.txt"],
        ["init", "{other}"],
        ["init", "{other}/new"],
    ],
    ids=" ".join,
)
def test_what_would_lie_inside_a_pack_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command takes the working directory off it
    other = tmp_path / "other"
    (other / "certs").mkdir(parents=True)
    for name in CONTROL_FILES:
        (other / name).touch()
    before = files_of(other)
    assert main([word.format(read=tmp_path / "run", other=other) for word in command]) == 2
    assert f"lies inside the pack {other}. Name a place elsewhere." in capsys.readouterr().err
    assert files_of(other) == before
