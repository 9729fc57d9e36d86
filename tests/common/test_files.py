"""Files appear whole or not at all; folder names are safe and one-to-one."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_proofpack.common.files import (
    atomic_write,
    folder_names,
    no_empty_folders_left,
    remove_leftovers,
    require_empty_directory,
    sha256_file,
)
from pytest_proofpack.errors import ConfigurationError


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000  # more than one read
    (tmp_path / "data").write_bytes(data)
    assert sha256_file(tmp_path / "data") == hashlib.sha256(data).hexdigest()


class TestAtomicWrite:
    def test_makes_folders_replaces_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "a/b/file.json"
        atomic_write(path, "ü")
        atomic_write(path, b"new")
        assert path.read_bytes() == b"new"
        assert names_in(path.parent) == ["file.json"]
        assert path.stat().st_mode & 0o777 == 0o644

    def test_a_failure_leaves_the_old_file_and_no_part_of_the_new_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        path = tmp_path / "file.json"
        atomic_write(path, "old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            atomic_write(path, "new")
        assert path.read_text() == "old"
        assert names_in(tmp_path) == ["file.json"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").touch()
    folder = tmp_path / "run/deeper"
    atomic_write(folder / "file.json", "whole")
    with monkeypatch.context() as patch:  # as if it was killed before it could rename or tidy up
        patch.setattr(Path, "replace", lambda *_: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        atomic_write(folder / "file.json", "half")
    (folder / ".pack.abcd_123.tmp/certs").mkdir(parents=True)
    (folder / ".link.abcd_123.tmp").symlink_to(outside)
    (folder / "linked").symlink_to(outside)
    for name in ("notes.tmp", ".notes.tmp", ".a.TOOSHORT.tmp"):
        (folder / name).touch()
    assert len(names_in(folder)) == 8
    remove_leftovers(tmp_path / "run")

    assert sorted(names_in(folder)) == [".a.TOOSHORT.tmp", ".notes.tmp", "file.json", "linked", "notes.tmp"]
    assert names_in(outside) == ["mine"]


class TestFolderNames:
    def test_an_id_becomes_a_lower_case_name_without_slashes(self) -> None:
        assert folder_names(["mistralai/Mistral-7B-v0.1"]) == {
            "mistralai/Mistral-7B-v0.1": "mistralai__mistral-7b-v0.1"
        }

    def test_ids_that_would_share_a_folder_get_digests(self) -> None:
        names = folder_names(["a/B", "a/b", "c"])
        assert names["a/B"] == "a__b-" + hashlib.sha256(b"a/B").hexdigest()[:8]
        assert names["a/B"] != names["a/b"]
        assert names["c"] == "c"

    def test_an_id_made_to_look_like_such_a_name_shares_no_folder(self) -> None:
        trap = folder_names(["a/B", "a/b"])["a/B"]
        assert len(set(folder_names(["a/B", "a/b", trap]).values())) == 3

    @pytest.mark.parametrize("model_id", ["..", "/", "", "a/../..", "ü", "x" * 5000, "con\x00\n", "-rf", ".hidden"])
    def test_a_name_is_one_safe_path_component(self, model_id: str) -> None:
        name = folder_names([model_id])[model_id]
        assert re.fullmatch(r"[a-z0-9_][a-z0-9._-]{0,119}", name)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.text("aAbB/-._ é", max_size=6), max_size=8))
    def test_one_to_one(self, ids: list[str]) -> None:
        names = folder_names(ids)
        assert names.keys() == set(ids)
        assert len({name.casefold() for name in names.values()}) == len(names)


class TestEmptyDirectory:
    def test_makes_a_new_one_and_leaves_nothing_in_it(self, tmp_path: Path) -> None:
        require_empty_directory(tmp_path / "a/b", "--out")
        assert names_in(tmp_path / "a/b") == []

    def test_refuses_what_holds_something_and_touches_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("precious")
        with pytest.raises(ConfigurationError, match=r"--out: .* is not empty, and nothing is ever overwritten"):
            require_empty_directory(tmp_path, "--out")
        assert (tmp_path / "mine").read_text() == "precious"
        require_empty_directory(tmp_path, "--out", besides={"mine"})

    def test_goes_again_with_those_above_it_unless_it_was_there_or_holds_something(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        names = ("new/deep", "mine", "mine/below", "kept/deep")
        with no_empty_folders_left(*(tmp_path / name for name in names)):
            for name in names:
                require_empty_directory(tmp_path / name, "--out", besides={"below"})
            (tmp_path / "kept/deep/file").write_text("")
        found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
        assert found == ["kept", "kept/deep", "kept/deep/file", "mine"]

    @pytest.mark.parametrize("below", ["", "deeper"])
    def test_refuses_a_file_and_what_lies_below_one(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigurationError, match=r"--out: cannot write to .*Name a directory"):
            require_empty_directory(tmp_path / "file" / below, "--out")
