"""Packing takes what was prepared of certificates as they arrived, and nothing else for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_proofpack import report
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.strict_json import pretty_json, read_json
from pytest_proofpack.errors import PackError
from pytest_proofpack.pack import write
from pytest_proofpack.pack.ahead import Ahead
from pytest_proofpack.pack.layout import LAYOUTS
from pytest_proofpack.pack.sign import SigningMode
from pytest_proofpack.pack.write import PackRequest, write_pack
from pytest_proofpack.plan.expected import expected_certificates
from tests.support.certificates import RunFiles, make_plan
from tests.support.forgery import files_of
from tests.support.packs import NEW_YEAR


def certificate_files(run: Path, run_files: RunFiles) -> dict[str, bytes]:
    """Return a run's certificates by their paths in a pack."""
    return {LAYOUTS["v1"].pack_path(path) or "": (run / path).read_bytes() for path in run_files.certificates}


def prepared(files: dict[str, bytes], *, html: bool = True) -> Ahead:
    """Return certificates as prepared when they arrived."""
    suite, plan = make_plan()
    ahead = Ahead(expected_certificates(plan.document(suite)), html=html)
    for path, data in files.items():
        ahead.begin(path, data)
    return ahead


@pytest.fixture
def forged(run_files: RunFiles, tmp_path: Path) -> Path:
    """A run with one certificate that claims another ratio."""
    run = Path(shutil.copytree(run_files.directory, tmp_path / "run"))
    path = next(iter(run_files.certificates))
    certificate = read_json(run / path)
    certificate["primary_metric"]["ratio"] = 0.5
    atomic_write(run / path, pretty_json(finish_certificate(certificate)))
    return run


def asked(run: Path, target: Path) -> PackRequest:
    return PackRequest(run, target, sign=SigningMode.OFF, generated_at=NEW_YEAR)


def test_the_pack_is_the_same_and_nothing_is_computed_twice(
    run_files: RunFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = write_pack(asked(run_files.directory, tmp_path / "usual")).directory
    files = certificate_files(run_files.directory, run_files)
    ahead = prepared(files)
    assert ahead.results(files).keys() == files.keys()

    def again(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(write, "check_certificate", again)
    monkeypatch.setattr(report, "certificate_html", again)
    packed = write_pack(asked(run_files.directory, tmp_path / "packed"), ahead=ahead).directory
    assert files_of(packed) == files_of(usual)
    assert all((packed / path).read_bytes() == (usual / path).read_bytes() for path in files_of(usual))


@pytest.mark.parametrize("when", ["before it was prepared", "after"])
def test_a_forged_certificate_is_not_packed(when: str, forged: Path, run_files: RunFiles, tmp_path: Path) -> None:
    ahead = prepared(certificate_files(run_files.directory if when == "after" else forged, run_files))
    with pytest.raises(PackError, match=r"does not verify \(primary_metric"):
        write_pack(asked(forged, tmp_path / "pack"), ahead=ahead)


def test_without_pages_none_is_made(run_files: RunFiles) -> None:
    files = certificate_files(run_files.directory, run_files)
    assert {own.page for own in prepared(files, html=False).results(files).values()} == {None}
