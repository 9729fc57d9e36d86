"""Packs of an earlier format are compared, shown and judged again like any other."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.results.comparison import Comparison
from pytest_proofpack.results.comparison_views import comparison_html, comparison_markdown, comparison_text
from pytest_proofpack.results.differences import obstacles
from pytest_proofpack.results.exports.export import Choice
from pytest_proofpack.results.exports.model_card import MODEL_CARD
from pytest_proofpack.results.opened import open_results
from pytest_proofpack.results.show import show_json, show_markdown, show_text
from tests.results.conftest import Command

STORED = Path(__file__).parents[1] / "packs"
KEY = f"--trusted-key-file={STORED / 'signing-key.asc'}"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(STORED / "tiny-0.1.0-format1.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "proof_pack"


def test_judged_again_by_its_own_tier_it_is_what_it_was(
    proofpack: Command, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proofpack("rejudge", stored, KEY, "--tier=balanced", "--format=json") == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["certificates"]) == 22
    for one in document["certificates"]:
        assert one["after"] == one["before"]
        assert one["kept"] == []


def test_compared_with_itself(proofpack: Command, stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert proofpack("compare", stored, stored, KEY, "--max-regression=0") == 0
    assert "No regression: 17 same." in capsys.readouterr().out


CAUTION = "1, which lacks the gates "


def test_it_says_that_gates_of_today_have_not_judged_it(stored: Path, run_directory: Path) -> None:
    results = open_results(stored, Demands(key_files=((STORED / "signing-key.asc").read_bytes(),)))
    comparison = Comparison(results, results, 0.01)
    for told in (
        show_text(results),
        show_markdown(results),
        MODEL_CARD.write(results, Choice(edits=("quant_4bit_clean",))),
        comparison_text(comparison),
        comparison_markdown(comparison),
        comparison_html(comparison),
    ):
        assert f"{CAUTION}label_holds, " in told
        assert "direction_kept" in told
    assert show_json(results)["certificate_format"] == 1
    current = open_results(run_directory)
    assert show_json(current)["certificate_format"] == 2
    assert "lacks the gates" not in show_text(current) + show_markdown(current)


def test_its_hash_of_the_tokenizer_is_over_less_and_so_no_obstacle(stored: Path) -> None:
    earlier = json.loads(next(stored.glob("certs/*/calibration/run_1/*.json")).read_bytes())
    later = {**earlier, "meta": {**earlier["meta"], "tokenizer_hash": "c" * 64}}
    assert list(obstacles(earlier, {**later, "certificate_format": 2})) == []
    assert list(obstacles(earlier, later)) == ["another tokenizer"]
