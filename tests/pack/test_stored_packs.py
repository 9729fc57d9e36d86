"""Packs that earlier versions of this package have made, and signed, verify for ever."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pytest_proofpack.commands.verify import main
from tests.support.packs import keyring, using

STORED = Path(__file__).parents[1] / "packs"
SIGNER = "4F9E776926E651494ACB8865EC1A1F0945D173FC"


@pytest.mark.parametrize("archive", sorted(STORED.glob("*.tar.xz")), ids=lambda path: path.name)
def test_a_pack_of_an_earlier_version_verifies(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    with keyring() as ring, using(ring):
        ring.gpg("--import", data=(STORED / "signing-key.asc").read_bytes())
        status = main([str(tmp_path / "proof_pack"), f"--trusted-key={SIGNER}"])
    assert status == 0, capsys.readouterr().out


def test_there_is_one() -> None:
    assert list(STORED.glob("*.tar.xz"))
