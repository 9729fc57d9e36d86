from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_proofpack.pack.sign import SigningMode
from tests.support.certificates import RunFiles, make_run_directory
from tests.support.openpgp import Keyring
from tests.support.packs import copy_of, keyring, pack_of, using

Maker = tuple[Keyring, str]


@pytest.fixture(scope="session")
def maker() -> Iterator[Maker]:
    """The keyring of the packs' maker, and the fingerprint of the key in it."""
    with keyring() as ring:
        yield ring, ring.make_key()


@pytest.fixture(scope="session")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    """A finished run; tests do not change it."""
    return make_run_directory(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def signed_original(run_files: RunFiles, maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed pack; tests do not change it."""
    with using(maker[0]):
        return pack_of(run_files.directory, tmp_path_factory.mktemp("signed") / "pack", sign=SigningMode.REQUIRED)


@pytest.fixture(scope="session")
def unsigned_original(run_files: RunFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unsigned pack; tests do not change it."""
    return pack_of(run_files.directory, tmp_path_factory.mktemp("unsigned") / "pack")


@pytest.fixture
def gnupg(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Let gpg use the maker's keyring."""
    monkeypatch.setenv("GNUPGHOME", str(maker[0].home))
    return maker


@pytest.fixture
def signed(signed_original: Path, gnupg: Maker, tmp_path: Path) -> Path:
    """A signed pack to damage; its maker's key is in the keyring."""
    return copy_of(signed_original, tmp_path / "pack")


@pytest.fixture
def unsigned(unsigned_original: Path, tmp_path: Path) -> Path:
    """An unsigned pack to damage."""
    return copy_of(unsigned_original, tmp_path / "pack")


@pytest.fixture
def stranger() -> Iterator[Maker]:
    """Another keyring with a key of its own."""
    with keyring() as ring:
        yield ring, ring.make_key("Stranger")
