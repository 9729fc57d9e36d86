"""A pack and runs like it, made once for all tests of what people do with results."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.commands.main import main
from pytest_proofpack.common.strict_json import JsonObject, pretty_json, read_json
from pytest_proofpack.plan.scenarios import read_scenarios
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.report import verdict_text
from tests.support.certificates import make_run_directory
from tests.support.packs import pack_of

QUANT = "acme__tiny-1m/certificates/quant_4bit_clean/run_1/evaluation.cert.json"
PACKED_QUANT = "certs/acme__tiny-1m/quant_4bit_clean/run_1/evaluation.cert.json"

KEPT = ("quant_4bit_clean", "fp8_e5m2_clean", "prune_50pct_stress", "nan_injection", "scale_explosion")
"""The scenarios of these runs: with the calibration six certificates."""

Command = Callable[..., int]


def few_scenarios() -> JsonObject:
    """The packaged scenarios, but few of them."""
    document = read_scenarios(suites_directory() / "scenarios.json")
    return {**document, "scenarios": [one for one in document["scenarios"] if one["id"] in KEPT]}


def few_certificates(directory: Path, **options: Any) -> Path:
    """Write a run of few scenarios."""
    return make_run_directory(directory, scenarios=few_scenarios(), **options).directory


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def proofpack() -> Command:
    """The command, in this process."""
    return lambda *arguments: main([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run; tests do not change it."""
    return few_certificates(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="session")
def pack(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its pack; tests do not change it."""
    return pack_of(run_directory, tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture(scope="session")
def another_run(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a copy of the run with one certificate replaced, and the verdict that follows."""

    def made(certificate: JsonObject | None, path: str = QUANT) -> Path:
        copy = Path(shutil.copytree(run_directory, tmp_path_factory.mktemp("others") / "run"))
        if certificate is None:
            (copy / path).unlink()
        else:
            (copy / path).write_text(pretty_json(certificate))
        found = [read_json(file) for file in sorted(copy.glob("*/certificates/**/evaluation.cert.json"))]
        verdict = compute_verdict(read_json(copy / "state/scenarios.json"), found)
        (copy / "reports/final_verdict.json").write_text(pretty_json(verdict))
        (copy / "reports/final_verdict.txt").write_text(verdict_text(verdict))
        return copy

    return made
