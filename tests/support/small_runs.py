"""Runs of the embedded suite over small models of several shapes, every scenario once, on few windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine.baseline import Baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS
from tests.support.model_files import build_model_directory

SHAPES = ("llama", "gpt2", "mixtral")
"""An untied head, on the last device; a tied head, on the first; experts."""
WINDOWS = 24


def small_run(shape: str, folder: Path, device: str = "cpu") -> Run:
    """Return a run of a small model that is saved in ``folder``."""
    model = build_model_directory(folder / shape, shape)
    settings = replace(DEFAULTS, suite="tiny", model=(str(model),), no_pack=True, sign="off", out=str(folder / "run"))
    runs = {"calibration": 1, "clean": 1, "stress": 1, "error": 1}
    return on_few_windows(resolve_run(replace(settings, device=device, runs=runs)))


def on_few_windows(run: Run) -> Run:
    """Return a run on too few windows to pass: for what is asked of certificates besides that."""
    windows = replace(run.suite.windows, preview=WINDOWS, final=WINDOWS)
    return replace(run, suite=replace(run.suite, windows=windows))


def certificates(run: Run, baseline: Baseline) -> dict[str, JsonObject]:
    """Return one certificate per scenario."""
    requests: dict[str, CertificateRequest] = {request.scenario.id: request for request in run.requests}
    made = {}
    for scenario, request in requests.items():
        with edited_subject(run, baseline, request) as subject:
            made[scenario] = certify(run, subject)
    return made


def outcomes(made: dict[str, JsonObject]) -> dict[str, JsonObject]:
    """Return the outcomes of some certificates."""
    return {scenario: certificate["outcome"] for scenario, certificate in made.items()}
