"""What is told of a run before anything is loaded or downloaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.devices.model_shapes import memory_text
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.runs.run import resolve_run
from pytest_proofpack.sources.expected_sizes import plan_lines, plan_problems
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
        assert lines[-1].startswith("to download in all: 1 model of unknown size; ")

    def test_what_a_run_would_end_at(self, tmp_path: Path) -> None:
        run = resolve_run(replace(DEFAULTS, suite="tiny", out="run", text="none.txt"))
        gone = replace(run.suite.models[0], path=tmp_path / "gone")
        run = replace(run, suite=replace(run.suite, models=(gone,)))
        problems = plan_problems(run)
        assert problems == [
            f"{tmp_path}/gone: does not exist. Name the directory that holds config.json and the weights, or a GGUF "
            "file.",
            "none.txt: there is no such text",
        ]
        assert plan_lines(run) == [f"proofpack/tiny: {problems[0]}", problems[1]]
        (tmp_path / "gone").mkdir()
        assert "gone: " in plan_problems(run)[0]  # nothing in it
        for file in (suites_directory() / "tiny_model").iterdir():
            if file.name != "config.json":
                shutil.copy(file, tmp_path / "gone")
        assert "gone/config.json: cannot be read" in plan_problems(run)[0]
        assert plan_problems(resolve_run(replace(DEFAULTS, suite="full", out="run"))) == []  # may be fetched

    @pytest.mark.parametrize(("device", "gpu", "cpu"), [("auto", 1, 1), ("cpu", 0, 1), ("cuda", 1, 0)])
    def test_memory_is_told_of_what_may_compute(self, device: str, gpu: int, cpu: int) -> None:
        run = resolve_run(replace(DEFAULTS, suite="tiny", out="run", device=device))
        text = memory_text(run, run.suite.models[0])
        assert text is not None
        assert (text.count("of one GPU"), text.count("for each worker on a CPU")) == (gpu, cpu)
