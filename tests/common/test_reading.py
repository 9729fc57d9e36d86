"""Files of somebody else's directory are regular ones, within a limit, reached without a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_proofpack.common.reading import UnfitFileError, is_regular, read_head, read_named, read_regular
from pytest_proofpack.common.strict_json import read_json
from pytest_proofpack.errors import FormatError

ZERO = Path("/dev/zero")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    (folder / "a").mkdir(parents=True)
    (folder / "a/file.json").write_text('{"a":1}')
    return folder


def test_a_file_is_read_whole_and_no_further_than_allowed(directory: Path) -> None:
    file = directory / "a/file.json"
    assert read_regular(file, 7) == read_regular(file, 7, below=directory) == b'{"a":1}'
    assert read_head(file, 2, below=directory) == b'{"'
    assert is_regular(file, directory)
    with pytest.raises(UnfitFileError, match="7 bytes, more than the 6 allowed"):
        read_regular(file, 6)
    with pytest.raises(FileNotFoundError):
        read_regular(directory / "a/none", 6, below=directory)
    with pytest.raises(ValueError, match="subpath"):
        read_regular(directory.parent, 6, below=directory)


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link to a device"])
def test_what_is_no_file_is_neither_waited_for_nor_read_without_end(kind: str, directory: Path) -> None:
    path = directory / "other"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path = ZERO
    else:
        path.symlink_to(ZERO)
    with pytest.raises(UnfitFileError, match="not a regular file"):
        read_regular(path, 100)
    with pytest.raises(FormatError, match=f"^{path.name}: not a regular file$"):
        read_json(path)
    assert len(read_named(ZERO, 100)) == 101


@pytest.mark.parametrize("place", ["a/link.json", "folder/file.json"])
def test_no_link_below_a_directory_is_followed(place: str, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file.json").write_text('{"secret":1}')
    (directory / "a/link.json").symlink_to(tmp_path / "elsewhere/file.json")
    (directory / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "named").symlink_to(directory)
    for way in (directory, tmp_path / "named"):
        with pytest.raises(UnfitFileError, match="a symbolic link"):
            read_regular(way / place, 100, below=way)
        assert not is_regular(way / place, way)
        assert read_regular(way / "a/file.json", 100, below=way) == b'{"a":1}', "the directory itself may be named so"
    with pytest.raises(FormatError, match="a symbolic link"):
        read_json(directory / place, below=directory)
    with pytest.raises(UnfitFileError, match="leads out"):
        read_regular(directory / "a/../a/file.json", 100, below=directory)
