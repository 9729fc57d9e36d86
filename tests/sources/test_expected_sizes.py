"""What is told of a run before anything is loaded or downloaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_proofpack.runs.run import resolve_run
from pytest_proofpack.sources.expected_sizes import plan_lines
from tests.sources.test_pinning import run_of
from tests.support.default_settings import DEFAULTS


class TestPlan:
    def test_of_the_full_suite(self, tmp_path: Path) -> None:
        lines = plan_lines(
            resolve_run(replace(DEFAULTS, suite="full", out=str(tmp_path))),
            lambda model: "2 devices" if "Yi" in model.id else None,
        )
        assert lines[0] == ("mistralai/Mistral-7B-v0.1: 7,241,732,096 parameters, about 14.5 GB to download in 16 bits")
        assert lines[3].startswith("01-ai/Yi-34B: 34,388,917,248 parameters, ")
        assert lines[3].endswith(", 2 devices")
        assert lines[6] == "data set Salesforce/wikitext: wikitext-2-raw-v1, validation: not in the cache"
        assert lines[7].startswith("to download in all: about 416 GB; ")

    def test_of_a_local_model(self, tmp_path: Path) -> None:
        (line,) = plan_lines(resolve_run(replace(DEFAULTS, suite="tiny", out=str(tmp_path))))
        assert line == "proofpack/tiny: 1,013,120 parameters, 4.06 MB on disk"

    def test_of_models_nobody_knows(self, tmp_path: Path) -> None:
        lines = plan_lines(run_of(tmp_path))
        assert lines[0] == "acme/small: parameters unknown, not in the cache"
        assert "without the 1 of unknown size" in lines[-1]
