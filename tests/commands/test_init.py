"""``proofpack init``: what it writes runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pytest_proofpack.commands.main import main
from pytest_proofpack.plan.starter import CI_FILES
from pytest_proofpack.plan.suites import load_suite, suites_directory


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_the_suite_can_be_collected(pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(pytester.path / "mine"), f"--model={suites_directory() / 'tiny_model'}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("mine/suite.toml --collect-only -q")
    result = pytester.runpytest("--proofpack-suite=mine/suite.toml", "--collect-only", "-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_certificate?tiny_model-quant_8bit-run_1?", "*tiny_model-nan_injection?"])


def test_what_is_commented_out_is_understood_too(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A text.\n\nAnother.\n")
    assert main(["init", str(tmp_path / "a"), f"--text={tmp_path / 'text.txt'}", "--model=acme/model@v2"]) == 0
    suite = load_suite(str(tmp_path / "a/suite.toml"))
    assert (suite.models[0].id, suite.models[0].revision, suite.text.path) == (
        "acme/model", "v2", tmp_path / "a/../text.txt",
    )  # fmt: skip
    file = tmp_path / "a/suite.toml"
    keys = ("[windows]", "seq_len", "preview", "final", "seed", "[limits]", "primary_metric", "distribution")
    lines = file.read_text().splitlines()
    wanted = [line.removeprefix("# ") if line.removeprefix("# ").startswith(keys) else line for line in lines]
    assert len([line for line in wanted if line not in lines]) == 9
    file.write_text("\n".join(wanted))
    suite = load_suite(str(file))
    assert suite.windows.seq_len == 512
    assert suite.limits["primary_metric"]["ratio_limit"] == 1.05


def test_a_path_that_leads_nowhere_is_no_model_of_the_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "a"), f"--model={tmp_path / 'none'}"]) == 2
    assert "there is no such directory" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("ci", CI_FILES)
def test_the_file_of_a_ci(ci: str, tmp_path: Path) -> None:
    assert main(["init", str(tmp_path), f"--ci={ci}"]) == 0
    document = yaml.safe_load((tmp_path / CI_FILES[ci]).read_text())
    jobs = document["jobs"] if ci == "github" else {name: document[name] for name in document["stages"]}
    assert set(jobs) == {"certify", "verify"}
    for job in jobs.values():
        scripts = job.get("script") or [step["run"] for step in job["steps"] if "run" in step]
        assert any("proofpack" in script for script in scripts)
        for script in scripts:
            subprocess.run(["bash", "-n", "-c", script], check=True)
            assert "suite.toml" in script or "pytest " not in script
    assert json.loads((tmp_path / "scenarios.json").read_bytes())["scenarios"]


def test_a_text_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "a"), f"--text={tmp_path / 'none.txt'}"]) == 2
    assert "none.txt: there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("ci", CI_FILES)
def test_the_file_of_a_ci_goes_where_it_is_looked_for(ci: str, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert main(["init", str(tmp_path / "a/b"), f"--ci={ci}"]) == 0
    text = (tmp_path / CI_FILES[ci]).read_text()
    assert "--proofpack-suite=a/b/suite.toml " in text
    assert "@" not in text.replace("actions/", "").replace("@v", "")
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == ["scenarios.json", "suite.toml"]
    assert main(["init", str(tmp_path / "c"), f"--ci={ci}"]) == 2  # nor is it overwritten there


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scenarios.json").write_text("mine")
    assert main(["init", str(tmp_path), "--ci=none"]) == 2
    assert "scenarios.json: there already, and nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["scenarios.json"]
    assert main(["init", str(tmp_path / "new"), "--text=text.pdf"]) == 2
    assert main(["init", str(tmp_path / "scenarios.json" / "below")]) == 2


def test_an_example_brings_model_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "try"
    assert main(["init", str(folder), "--example", "--ci=none"]) == 0
    suite = load_suite(str(folder / "suite.toml"))
    assert suite.models[0].path is not None
    assert suite.models[0].path.resolve() == (folder / "model").resolve()
    assert (folder / "model/model.safetensors").read_bytes() == (
        suites_directory() / "tiny_model/model.safetensors"
    ).read_bytes()
    assert len((folder / "text.txt").read_text().split()) > 50_000
    capsys.readouterr()
    assert main(["init", str(folder), "--example"]) == 2
    assert "there already" in capsys.readouterr().err
    assert main(["init", str(tmp_path / "other"), "--example", "--model=acme/model"]) == 2
