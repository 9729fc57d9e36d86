"""A baseline that holds -inf where it means to: what is in both models is no finding, in memory and from files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine.certify import certify, edited_subject, loaded_subject
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.runs.run import resolve_run
from pytest_proofpack.text.synthetic import generate
from tests.support.default_settings import DEFAULTS
from tests.support.model_files import build_model_directory


def close_sinks(directory: Path, head: int) -> Path:
    """Give a head of every layer no sink: its logit is -inf."""
    tensors = load_file(directory / "model.safetensors")
    for name, values in tensors.items():
        if name.endswith("sinks"):
            values[head] = -torch.inf
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, JsonObject]:
    folder = tmp_path_factory.mktemp("masked")
    base = close_sinks(build_model_directory(folder / "base", "gpt_oss"), 1)
    same, other = (shutil.copytree(base, folder / name) for name in ("same", "other"))
    close_sinks(other, 2)
    (folder / "text.txt").write_text("\n\n".join(document.text for document in generate(1, 150)))
    subjects, text = (str(same), str(other)), str(folder / "text.txt")
    settings = replace(DEFAULTS, baseline=str(base), subject=subjects, no_pack=True, sign="off", text=text)
    run = resolve_run(replace(settings, out=str(folder / "run"), runs={"calibration": 1}))
    run = replace(run, suite=replace(run.suite, windows=replace(run.suite.windows, preview=40, final=8, seq_len=32)))
    bench, certificates = Workbench(run), {}
    for request in run.requests:
        baseline = bench.baseline(request)
        if request.subject is not None:
            subject = loaded_subject(run, baseline, request, bench.checkpoint(request, baseline))
            certificates[request.scenario.id] = certify(run, subject)
        else:
            with edited_subject(run, baseline, request) as edited:
                certificates[request.scenario.id] = certify(run, edited)
    return certificates


@pytest.mark.parametrize("scenario", ["calibration", "same"])
def test_the_same_in_both_is_no_violation(made: dict[str, JsonObject], scenario: str) -> None:
    certificate = made[scenario]
    assert certificate["invariants"]["violations"] == []
    assert certificate["invariants"]["subject"]["non_finite_shared"] == 3
    assert certificate["validation"]["spectral_stable"]
    assert certificate["primary_metric"]["ratio_vs_baseline"] == 1.0
    assert check_certificate(certificate) == []


def test_files_that_are_the_same_have_no_difference(made: dict[str, JsonObject]) -> None:
    summary = made["same"]["structure"]["summary"]
    assert (summary["changed"], summary["not_compared"]) == (0, 0)


def test_another_place_is_one(made: dict[str, JsonObject]) -> None:
    certificate = made["other"]
    assert [violation["kind"] for violation in certificate["invariants"]["violations"]] == ["non_finite"]
    assert not certificate["validation"]["spectral_stable"]
    assert check_certificate(certificate) == []
