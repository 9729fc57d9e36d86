"""Packs for tests, made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pytest_proofpack.pack.attest import NOT_ATTESTED, AttestRequest
from pytest_proofpack.pack.sign import SigningMode
from pytest_proofpack.pack.write import PackRequest, write_pack
from tests.support.openpgp import Keyring

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@contextmanager
def keyring() -> Iterator[Keyring]:
    """Yield a keyring that is removed afterwards."""
    ring = Keyring()
    try:
        yield ring
    finally:
        ring.close()


@contextmanager
def using(ring: Keyring) -> Iterator[None]:
    """Let gpg use a keyring."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GNUPGHOME", str(ring.home))
        yield


def pack_of(
    run_directory: Path,
    target: Path,
    *,
    sign: SigningMode = SigningMode.OFF,
    html: bool = False,
    attest: AttestRequest = NOT_ATTESTED,
    network_mode: str = "offline",
) -> Path:
    """Write a pack and return its directory."""
    request = PackRequest(
        run_directory, target, sign=sign, html=html, network_mode=network_mode, attest=attest, generated_at=NEW_YEAR
    )
    return write_pack(request).directory


def copy_of(pack: Path, target: Path) -> Path:
    """Return a copy of a pack that a test may damage."""
    return Path(shutil.copytree(pack, target))
