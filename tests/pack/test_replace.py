"""A new pack in the place of an older one: whole packs only, and nobody's other files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.replace import replace_pack, require_own_pack
from pytest_proofpack.pack.sign import SigningMode
from pytest_proofpack.pack.write import PackRequest, PackResult, write_pack
from tests.support.certificates import RunFiles


@pytest.fixture
def write(run_files: RunFiles) -> Callable[[Path], PackResult]:
    return lambda target: write_pack(PackRequest(run_files.directory, target, sign=SigningMode.OFF, html=False))


def test_the_new_one_takes_the_name_and_nothing_else_is_left(
    unsigned: Path, write: Callable[[Path], PackResult]
) -> None:
    before = (unsigned / "manifest.json").read_bytes()
    seen = []

    def watching(target: Path) -> PackResult:
        result = write(target)
        seen.append((unsigned / "manifest.json").read_bytes())
        return result

    result = replace_pack(watching, unsigned, "small")

    assert result.directory == unsigned
    assert seen == [before]  # until the new one is whole, the older one has the name
    assert (unsigned / "manifest.json").read_bytes() != before
    require_own_pack(unsigned, "small")
    assert list(unsigned.parent.iterdir()) == [unsigned]


@pytest.mark.parametrize("failing", ["write", "rename"])
def test_a_failure_leaves_the_older_one(
    unsigned: Path, write: Callable[[Path], PackResult], failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (unsigned / "manifest.json").read_bytes()
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target == unsigned and "manifest.json" in [path.name for path in self.iterdir()] and not moved:
            moved.append(self)
            raise OSError(28, "No space left on device")
        return rename(self, target)

    def half(target: Path) -> PackResult:
        (target / "half").touch()
        raise PackError("could not be signed")

    moved: list[Path] = []
    with monkeypatch.context() as patch:
        if failing == "rename":
            patch.setattr(Path, "rename", refuse)
        with pytest.raises(PackError, match=r"could not be (signed|replaced)"):
            replace_pack(half if failing == "write" else write, unsigned, "small")
    assert bool(moved) == (failing == "rename")
    assert (unsigned / "manifest.json").read_bytes() == before
    assert [path.name for path in unsigned.parent.iterdir() if not path.name.startswith(".")] == ["pack"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda pack: (pack / "notes.txt").write_text("mine"), "'notes.txt': an extra file"),
        (lambda pack: (pack / "README.md").unlink(), "'README.md': missing"),
        (lambda pack: (pack / "README.md").write_text("changed"), "'README.md': "),
        (lambda pack: (pack / "manifest.json").unlink(), "manifest.json: missing"),
    ],
)
def test_what_is_no_whole_pack_is_refused(unsigned: Path, change: Callable[[Path], object], problem: str) -> None:
    change(unsigned)

    with pytest.raises(ConfigurationError, match=f"--proofpack-pack-dir: .* is not empty.*{problem}"):
        require_own_pack(unsigned, "small")


def test_a_pack_of_another_suite_is_refused(unsigned: Path) -> None:
    with pytest.raises(ConfigurationError, match="it is of the suite 'small'"):
        require_own_pack(unsigned, "other")


def test_a_link_to_a_pack_is_refused(unsigned: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(unsigned)

    with pytest.raises(ConfigurationError, match="is not empty"):
        require_own_pack(link, "small")
