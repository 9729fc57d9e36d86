"""Where a run may be written: inside no other run and no pack. What is taken back of one that made nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.layout import CHECKSUMS, MANIFEST
from pytest_proofpack.runs.claim import claimed, forget_run, holds_run
from pytest_proofpack.runs.paths import MARKER, SCENARIOS, STATE, TUNING, journal_path
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS


def run_in(out: Path, pack_dir: Path | None = None, *, resume: bool = False) -> Run:
    given = None if pack_dir is None else str(pack_dir)
    return resolve_run(replace(DEFAULTS, suite="tiny", out=str(out), pack_dir=given, resume=resume))


def take(run: Run) -> None:
    with claimed(run):
        pass


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return the directory of a run with its pack."""
    out = tmp_path / "other"
    atomic_write(out / MARKER, b"{}")
    for name in (MANIFEST, CHECKSUMS):
        atomic_write(out / "proof_pack" / name, b"{}")
    return out


def test_a_run_inside_another_is_refused(other: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(other)
    for out in (other / "new", other / "logs/deeper/new", tmp_path / "link/new"):
        with pytest.raises(ConfigurationError, match=r"^--proofpack-out: .*new lies inside the directory") as refused:
            take(run_in(out))
        assert f"of another run, {other}. " in str(refused.value)
        assert str(refused.value).endswith(f"To go on with that run: --proofpack-out={other} --proofpack-resume.")
        assert not out.exists()


def test_a_run_or_a_pack_inside_a_pack_is_refused(other: Path, tmp_path: Path) -> None:
    pack = other / "proof_pack"
    with pytest.raises(ConfigurationError, match=f"^--proofpack-out: .*new lies inside the pack {pack}. Name"):
        take(run_in(pack / "new"))
    with pytest.raises(ConfigurationError, match=f"^--proofpack-pack-dir: .*new lies inside the pack {pack}. Name"):
        take(run_in(tmp_path / "run", pack / "new"))
    with pytest.raises(ConfigurationError, match=f"^--proofpack-pack-dir: .*new lies inside the .* run, {other}. Name"):
        take(run_in(tmp_path / "run", other / "new"))
    assert not (tmp_path / "run").exists()


def test_what_lies_beside_or_is_the_run_itself_is_taken(other: Path, tmp_path: Path) -> None:
    atomic_write(tmp_path / MANIFEST, b"{}")  # many a project has one
    take(run_in(tmp_path / "run"))
    take(run_in(tmp_path / "run", tmp_path / "run/packs/first"))
    nested = other / "nested"
    atomic_write(nested / MARKER, b"{}")  # by an earlier version
    for out in (other, nested):
        take(run_in(out, out / "second_pack", resume=True))
        take(run_in(out, resume=True))


@pytest.mark.parametrize("tuned", [False, True])
def test_what_was_begun_in_vain_is_taken_back_but_for_what_was_tuned(tmp_path: Path, tuned: bool) -> None:
    run = run_in(tmp_path / "deep/run")
    found = run.out / TUNING / "tuned_edit_params.json"
    with claimed(run):
        if tuned:
            atomic_write(found, b"{}")
        atomic_write(run.out / MARKER, b"{}")
        atomic_write(journal_path(run.out, "gw0"), b"{}")
        forget_run(run.out)
    assert not holds_run(run.out)
    assert (tmp_path / "deep").exists() is found.is_file() is tuned
    take(run_in(run.out, resume=True))


def test_a_session_that_was_killed_before_its_run_was_there_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "run"
    leftover = out / STATE / ".run.json.abcd1234.tmp"
    for path in (out / SCENARIOS, leftover):
        atomic_write(path, b"{}")
    with pytest.raises(ConfigurationError, match=r"is not empty.* go on with the run in it: --proofpack-resume"):
        take(run_in(out))
    assert leftover.exists()
    take(run_in(out, resume=True))
    assert not leftover.exists()
    atomic_write(out / STATE / "precious", b"")
    with pytest.raises(ConfigurationError, match="holds no run to go on with"):
        take(run_in(out, resume=True))
