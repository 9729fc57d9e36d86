"""Logs of controller and workers: a line per event, bounded, without secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_proofpack.runs import journal
from pytest_proofpack.runs.journal import Journal, shorten, tail


def test_every_line_is_an_object(tmp_path: Path) -> None:
    log = Journal(tmp_path / "logs/gw0.jsonl")
    log.note("item begins", item="a\nb")
    log.note("item ends", memory={"peak_resident": 1}, path=tmp_path)

    first, second = (json.loads(line) for line in (tmp_path / "logs/gw0.jsonl").read_text().splitlines())
    assert (first["event"], first["item"]) == ("item begins", "a\nb")
    assert (second["memory"], second["path"]) == ({"peak_resident": 1}, str(tmp_path))


def test_a_log_is_bounded_and_keeps_what_came_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gw0.log"
    with file.open("ab", buffering=0) as stream:  # as a worker's standard error
        for number in range(1000):
            stream.write(b"line %d\n" % number)
            shorten(file, limit=1000)
    assert file.stat().st_size <= 1000
    assert file.read_text().startswith("line ")
    assert tail(file).endswith("line 999")
    assert len(tail(file).splitlines()) == 20
    assert tail(file, begin=file.stat().st_size) == ""


def test_where_it_cannot_be_written_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Journal(tmp_path / "file/gw0.jsonl").note("item begins")
    Journal(None).note("item begins")
    assert tail(tmp_path / "nothing") == ""


def test_values_of_secrets_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("MY_API_KEY", "short")
    file = tmp_path / "controller.jsonl"
    Journal(file).note("warning", text="Bearer hf_abcdefgh was refused; short")
    assert json.loads(file.read_text())["text"] == "Bearer <HF_TOKEN> was refused; short"
    (tmp_path / "gw0.log").write_text("token hf_abcdefgh")
    assert tail(tmp_path / "gw0.log") == "token <HF_TOKEN>"


def test_the_bound_is_a_megabyte() -> None:
    assert journal.LIMIT == 2**20
