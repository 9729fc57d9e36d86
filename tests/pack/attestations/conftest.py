from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.pack.attest import AttestRequest
from tests.support.attest_keys import AttestKey
from tests.support.certificates import RunFiles
from tests.support.packs import copy_of, pack_of


@pytest.fixture(scope="module")
def key() -> AttestKey:
    """The maker's key; another one in every module."""
    return AttestKey()


@pytest.fixture(scope="module")
def original(run_files: RunFiles, key: AttestKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack attested by that key; tests do not change it."""
    folder = tmp_path_factory.mktemp("attested")
    private, _ = key.write(folder)
    return pack_of(run_files.directory, folder / "pack", attest=AttestRequest(keys=(str(private),)))


@pytest.fixture
def pack(original: Path, tmp_path: Path) -> Path:
    """An attested pack to damage."""
    return copy_of(original, tmp_path / "pack")
