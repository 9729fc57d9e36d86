"""``proofpack history``: every edit over time."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pytest_proofpack.pack.verified import EditFacts
from pytest_proofpack.pack.write import PackRequest, write_pack
from pytest_proofpack.results.history import Point, plot
from tests.results.conftest import PACKED_QUANT, Command, few_certificates
from tests.support.forgery import forge_certificate


@pytest.fixture(scope="module")
def packs(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of two packs, the later one first by name, and of something else."""
    folder = tmp_path_factory.mktemp("over_time")
    later = few_certificates(folder / ".run", shifts={"quant_4bit_clean": 0.3})
    for name, run, day in (("b_first", run_directory, 1), ("a_second", later, 2)):
        moment = datetime(2026, 3, day, tzinfo=UTC)
        meta = {"commit": f"{day}" * 40}
        write_pack(PackRequest(run, folder / name, html=False, sign="off", generated_at=moment, meta=meta))
    shutil.rmtree(folder / ".run")
    (folder / "notes").mkdir()
    return folder


def test_a_directory_of_packs_in_the_order_of_time(
    proofpack: Command, packs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proofpack("history", packs) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(index for index, line in enumerate(lines) if "quant_4bit_clean" in line)
    first, second = lines[place].split(), lines[place + 1].split()
    assert first[2:4] == ["2026-03-01T00:00:00Z", "1.0094"]
    assert first[-2:] == [str(packs / "b_first"), "(1111111111)"]
    assert second[0] == "2026-03-02T00:00:00Z"
    assert (first[-3], second[-3]) == ("PASSED", "FAILED")

    assert proofpack("history", packs, "--format=json") == 0
    series = {one["scenario"]: one for one in json.loads(capsys.readouterr().out)["series"]}
    assert "calibration" not in series
    assert [point["passed"] for point in series["quant_4bit_clean"]["points"]] == [True, False]
    assert [point["commit"][0] for point in series["nan_injection"]["points"]] == ["1", "2"]


def test_as_a_page(proofpack: Command, packs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert proofpack("history", packs / "b_first", packs / "a_second", "--format=html") == 0
    page = capsys.readouterr().out
    assert (page.count("<svg"), page.count("<circle")) == (5, 10)
    assert 'aria-label="2 results, ratio from 1.0094 to 1.34' in page
    assert proofpack("history", packs, "--format=markdown") == 0
    assert "| `acme/Tiny-1M` | `quant_4bit_clean` | 2026-03-01T00:00:00Z |" in capsys.readouterr().out


def test_what_was_never_finite_has_no_plot() -> None:
    edit = EditFacts("a/b", "nan_injection", "must_detect", 1, 1, True, False, None, None, 1.1, None, None)
    assert plot([Point("pack", "2026-03-01T00:00:00Z", "", edit)]) is None


def test_what_does_not_hold_is_left_out_and_said(
    proofpack: Command, packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = Path(shutil.copytree(packs / "a_second", tmp_path / "forged"))
    forge_certificate(forged, PACKED_QUANT, lambda certificate: certificate["primary_metric"].update(final=1.0))
    assert proofpack("history", packs / "b_first", forged) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"left out, NOT VERIFIED: {forged}: ")
    assert not any("2026-03-02" in line for line in lines)
    assert proofpack("history", packs / "notes") == 2
    assert "holds neither packs nor run directories" in capsys.readouterr().err
