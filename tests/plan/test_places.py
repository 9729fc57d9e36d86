"""What is a model on a disk, told from names alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.plan.places import left_out_at, models_at
from pytest_proofpack.plan.suites import named_models


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("config.json", "a.gguf", "b.gguf"), ["."]),
        (("a.gguf", "tokenizer.json"), ["."]),
        (("a.GGUF",), ["."]),
        (("b.gguf", "a.gguf", "notes.txt"), ["a.gguf", "b.gguf"]),
        (("one/config.json", "two/model.gguf", "three/notes.txt"), ["one", "two"]),
        (("one/config.json", "a.gguf"), ["a.gguf", "one"]),
        (("notes.txt",), []),
    ],
)
def test_models_at(tmp_path: Path, names: tuple[str, ...], expected: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert models_at(tmp_path) == [tmp_path / name for name in expected]


def test_directories_without_a_model_are_named(tmp_path: Path) -> None:
    for name in ("one/config.json", "two/model.gguf", "three/notes.txt", ".cache/x", "four/sub/config.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert left_out_at(tmp_path) == [tmp_path / "four", tmp_path / "three"]
    assert left_out_at(tmp_path / "one") == left_out_at(tmp_path / "two") == left_out_at(Path("acme/model")) == []


def test_what_is_no_directory_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    assert models_at(tmp_path / "a.gguf") == [tmp_path / "a.gguf"]
    assert models_at(Path("acme/model@main")) == [Path("acme/model@main")]


def test_a_file_is_named_without_a_sign_that_it_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.gguf").touch()
    monkeypatch.chdir(tmp_path)
    here, hub = named_models(["small.gguf", "acme/small.gguf"], "--proofpack-subject")
    assert (here.id, here.path) == ("small.gguf", tmp_path / "small.gguf")
    assert (hub.id, hub.path) == ("acme/small.gguf", None)
