"""A run's directory gets the checks of a pack before anything is made of it; one that is under way stays readable."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject, pretty_json, read_json
from tests.results.conftest import QUANT, Command
from tests.support.forgery import change_document, rederive

FP8 = QUANT.replace("quant_4bit_clean", "fp8_e5m2_clean")


@pytest.fixture
def run(run_directory: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(run_directory, tmp_path / "run"))


def too_many(document: JsonObject) -> None:
    document["plan"]["models"] = [f"m{number}" for number in range(1000)]
    document["plan"]["runs"] = dict.fromkeys(document["plan"]["runs"], 1000)


def twice(document: JsonObject) -> None:
    document["scenarios"].append({**document["scenarios"][0], "strictness": "informational"})


PLANS: dict[str, tuple[Callable[[JsonObject], None], str]] = {
    "a bomb": (too_many, f"plans more than {BUDGETS.planned} certificates"),
    "a scenario that stands there twice": (twice, "stands there twice"),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("command", ["show", "history", "report"])
def test_a_plan_is_judged_before_anything_is_made_of_it(
    plan: str, command: str, proofpack: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, why = PLANS[plan]
    change_document(run / "state/scenarios.json", change)
    monkeypatch.setattr("pytest_proofpack.pack.run_files.expected_certificates", lambda _: pytest.fail("made of it"))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert proofpack(command, run) == 1
    assert why in said.getvalue()


def test_a_certificate_of_another_edit_than_its_scenario_asks_for(
    proofpack: Command, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = read_json(run / FP8)
    certificate["scenario"]["id"] = "quant_4bit_clean"
    rederive(certificate)
    (run / QUANT).write_text(pretty_json(finish_certificate(certificate)))
    assert proofpack("show", run) == 1
    assert f"{QUANT}: provenance.edit: recorded" in capsys.readouterr().err


def test_bootstraps_beyond_the_budgets(
    proofpack: Command, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pytest_proofpack.pack.check_structure.BUDGETS", replace(BUDGETS, resamples=1000))
    assert proofpack("show", run, "--accept-unverified") == 1
    assert "more than verification allows" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "report"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link", "a folder that is a link"])
def test_a_certificate_that_is_no_file_of_the_directory(
    kind: str, command: str, proofpack: Command, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = (run / QUANT).rename(run.parent / "evaluation.cert.json")
    if kind == "a pipe":
        os.mkfifo(run / QUANT)
    elif kind == "a folder that is a link":
        (run / QUANT).parent.rmdir()
        (run / QUANT).parent.symlink_to(run.parent)
    else:
        (run / QUANT).symlink_to("/dev/zero" if kind == "a device" else file)
    assert proofpack(command, run) == 1
    why = "not a regular file" if kind == "a pipe" else "a symbolic link, and none is followed there"
    assert f"{QUANT}: {why}" in capsys.readouterr().err


def test_a_time_that_is_a_pipe_is_not_waited_for(proofpack: Command, run: Path) -> None:
    (run / "state/run.json").unlink(missing_ok=True)
    os.mkfifo(run / "state/run.json")
    assert proofpack("show", run) == 0


def test_a_run_under_way_is_read(proofpack: Command, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / QUANT).unlink()
    shutil.rmtree(run / "reports")
    assert proofpack("show", run) == 0
    assert "every certificate recomputed, 1 is missing" in capsys.readouterr().out
    for certificate in run.glob("*/certificates/**/evaluation.cert.json"):
        certificate.unlink()
    assert proofpack("show", run) == 1
    assert "holds no certificate. Is the run still under way?" in capsys.readouterr().err
