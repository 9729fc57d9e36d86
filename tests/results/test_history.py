"""``proofpack history``: every edit over time."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import pytest

from pytest_proofpack.pack.verified import EditFacts
from pytest_proofpack.pack.write import PackRequest, write_pack
from pytest_proofpack.results.history import History, Point, history_html, history_text, plot
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


def test_on_a_narrow_terminal_results_are_listed_and_models_stand_above_their_edits() -> None:
    def point(model: str, scenario: str, day: int) -> tuple[tuple[str, str], Point]:
        facts = EditFacts(model, scenario, "must_pass", 1, 1, True, True, 1.01, (1.005, 1.015), 1.1, 0.09, 0.01)
        return (model, scenario), Point(f"runs/of/day_{day}/proof_pack", f"2026-03-0{day}T00:00:00Z", "c" * 40, facts)

    models = ("mistralai/Mistral-7B-Instruct-v0.3", "HuggingFaceTB/SmolLM2-135M-Instruct")
    series: dict[tuple[str, str], list[Point]] = {}
    for day in (1, 2):
        for model in models:
            for scenario in ("svd_rank32_l31_clean", "a_scenario_with_a_name_of_forty_letters_"):
                key, made = point(model, scenario, day)
                series.setdefault(key, []).append(made)
    found = History(series)
    wide, narrow = history_text(found).splitlines(), history_text(found, 80).splitlines()
    assert max(map(len, wide)) > 150
    assert max(map(len, narrow)) <= 80
    assert narrow[:2] == [
        "result 1: 2026-03-01T00:00:00Z runs/of/day_1/proof_pack (cccccccccc)",
        "result 2: 2026-03-02T00:00:00Z runs/of/day_2/proof_pack (cccccccccc)",
    ]
    assert narrow[3].split() == ["scenario", "result", "ratio", "outcome"]
    assert [line for line in narrow if line in models] == list(models)
    place = narrow.index(models[1]) + 1
    assert [line.split() for line in narrow[place : place + 2]] == [
        ["svd_rank32_l31_clean", "1", "1.0100", "PASSED"],
        ["2", "1.0100", "PASSED"],
    ]
    assert narrow[-1] == "no room for: 95 % interval (1.0050 to 1.0150), limit (1.1)"
    assert history_text(found, 24).splitlines()[:4] == [  # a path is broken where it has to be
        *("result 1:", "  2026-03-01T00:00:00Z", "  runs/of/day_1/proof_pa", "  ck (cccccccccc)"),
    ]


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


def test_the_plot_of_one_result_has_a_limit_to_compare_it_with() -> None:
    edit = EditFacts("a/b", "own", "must_pass", 1, 1, True, True, 1.02, (1.01, 1.03), 1.1, 0.07, 0.01)
    point = Point("pack", "2026-03-01T00:00:00Z", "", edit)
    drawn = plot([point])
    assert drawn is not None
    assert drawn.summary == "1 result, ratio 1.0200"
    (left, first), (_, middle), (right, last) = (place.split(",") for place in drawn.limit.split())
    assert (float(left) < float(drawn.dots[0][0]) < float(right), first, last) == (True, middle, middle)
    assert "its 95\N{NO-BREAK SPACE}% interval" in unescape(history_html(History({("a/b", "own"): [point]})))


def test_a_sentence_in_a_finding_ends_once(
    proofpack: Command, packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = Path(shutil.copytree(packs / "a_second", tmp_path / "signed"))
    (signed / "manifest.json.asc").write_text(
        "-----BEGIN PGP SIGNATURE-----\n\nwgNhYmM=\n-----END PGP SIGNATURE-----\n"
    )
    monkeypatch.setenv("PATH", "")
    assert proofpack("history", signed) == 1
    assert "Install GnuPG and verify again; " in capsys.readouterr().out


def test_what_does_not_hold_is_left_out_and_said(
    proofpack: Command, packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = Path(shutil.copytree(packs / "a_second", tmp_path / "forged"))
    forge_certificate(forged, PACKED_QUANT, lambda certificate: certificate["primary_metric"].update(final=1.0))
    assert proofpack("history", packs / "b_first", forged) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"left out, NOT VERIFIED: {forged}: ")
    assert not any("2026-03-02" in line for line in lines)
    assert proofpack("history", forged) == 1
    assert capsys.readouterr().out.splitlines()[0] == "nothing to show"
    assert proofpack("history", packs / "notes") == 2
    assert "holds neither packs nor run directories" in capsys.readouterr().err


def test_what_was_not_verified_and_makes_no_sense_ends_no_history(
    proofpack: Command, packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = Path(shutil.copytree(packs / "a_second", tmp_path / "forged"))
    forge_certificate(
        forged, PACKED_QUANT, lambda certificate: certificate["resolved_policy"].update(primary_metric={})
    )
    assert proofpack("history", packs / "b_first", forged, "--accept-unverified") == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("2026-03-01" in line for line in lines)
    assert lines[-1] == f"left out, NOT VERIFIED: {forged}: does not make sense: KeyError: 'ratio_limit'"
