"""A run: what the user asked for, resolved once, before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.config.options import OPTIONS
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.runs.run import resolve_run


def settings(**given: Any) -> Settings:
    defaults = {option.name: option.default if option.metavar else False for option in OPTIONS}
    return Settings(**{**defaults, "suite": "tiny", **given})


class TestDirectories:
    def test_by_default_a_new_one_named_by_suite_and_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = resolve_run(settings())
        assert run.out.parent == tmp_path / "proof_pack_runs"
        assert run.out.name.startswith("tiny_2")
        assert run.pack_dir == run.out / "proof_pack"
        assert run.settings.out == str(run.out)  # what workers get, so that all write into one place

    def test_as_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        run = resolve_run(settings(out="run", pack_dir="~/pack"))
        assert (run.out, run.pack_dir) == (tmp_path / "run", tmp_path / "home/pack")
        assert resolve_run(settings(no_pack=True, pack_dir="pack")).pack_dir is None

    def test_nothing_is_written(self, tmp_path: Path) -> None:
        resolve_run(settings(out=str(tmp_path / "run")))
        assert list(tmp_path.iterdir()) == []


class TestChoices:
    def test_runs_replace_those_of_the_suite_one_by_one(self) -> None:
        before, after = resolve_run(settings()), resolve_run(settings(runs={"clean": 7}))
        assert after.suite.runs == {**before.suite.runs, "clean": 7}
        assert (before.highest_run, after.highest_run) == (2, 7)

    def test_nothing_to_certify(self) -> None:
        runs = {"calibration": 0, "clean": 0, "stress": 0, "error": 0}
        with pytest.raises(ConfigurationError, match="asks for no certificate at all"):
            resolve_run(settings(runs=runs))

    def test_a_detector_that_no_certificate_has(self, tmp_path: Path) -> None:
        packaged = (suites_directory() / "scenarios.json").read_text()
        (tmp_path / "own.json").write_text(packaged.replace('"spectral_stable"', '"spectral_stabel"'))
        suite = (suites_directory() / "tiny.toml").read_text().replace('"tiny_model"', '"."')
        (tmp_path / "own.toml").write_text('scenarios = "own.json"\n' + suite)
        with pytest.raises(ConfigurationError, match=r"there is no gate 'spectral_stabel'\. Did you mean 'spectral_s"):
            resolve_run(settings(suite=str(tmp_path / "own.toml")))

    def test_no_suite(self) -> None:
        with pytest.raises(ConfigurationError, match="name one with --proofpack-suite=NAME"):
            resolve_run(settings(suite=None))

    def test_the_policy_of_the_tier(self) -> None:
        assert resolve_run(settings(tier="conservative")).policy.section("primary_metric")["ratio_limit"] == 1.05

    @pytest.mark.parametrize(("name", "provider"), [("a.txt", "local_text"), ("a.JSONL", "local_jsonl")])
    def test_another_text(self, name: str, provider: str) -> None:
        text = resolve_run(settings(text=name)).suite.text
        assert (text.provider, text.path) == (provider, Path(name))

    @pytest.mark.parametrize("name", ["a.csv", "a", ".txt.gz"])
    def test_a_text_of_another_kind(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match=rf"--proofpack-text={name}: expected a .txt or a .jsonl file"):
            resolve_run(settings(text=name))

    def test_windows_are_the_suites_or_those_of_the_model(self) -> None:
        run = resolve_run(settings())
        assert (run.window_plan(10**6, None).preview, run.window_plan(10**10, None).seq_len) == (200, 128)
        free = replace(run, suite=replace(run.suite, windows=replace(run.suite.windows, seq_len=None, final=None)))
        plan = free.window_plan(10**10, None)
        assert (plan.seq_len, plan.preview, plan.final, plan.seed) == (512, 200, 100, 42)
