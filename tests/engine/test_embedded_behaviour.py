"""What the guards see on the embedded model: every kind of damage by at least two of five signals, nothing by none.

The same on models of other architectures, trained on real text, is in docs/behaviour.md with the commands that made it.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.devices.placement import Placement
from pytest_proofpack.edits import target
from pytest_proofpack.engine.baseline import Baseline, load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.errors import RestoreError
from pytest_proofpack.models.forward import BatchSize
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS
from tests.support.edited_checkpoints import EMBEDDED
from tests.support.small_models import edit_spec, weights_digest
from tests.support.small_runs import on_few_windows

TWICE_SEEN = ("scale_explosion", "rank_collapse", "norm_collapse", "extreme_quant", "svd_rank32_stress")
DRAWS = 10


def settings_for(folder: Path) -> Settings:
    return replace(DEFAULTS, suite="tiny", no_pack=True, sign="off", out=str(folder / "run"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return resolve_run(settings_for(tmp_path_factory.mktemp("embedded")))


@pytest.fixture(scope="module")
def baseline(run: Run) -> Baseline:
    return load_baseline(run, prepare_model(run, run.suite.models[0]))


def certificate_of(run: Run, baseline: Baseline, request: CertificateRequest) -> JsonObject:
    with edited_subject(run, baseline, request) as subject:
        return certify(run, subject)


def request_for(run: Run, scenario: str) -> CertificateRequest:
    return next(request for request in run.requests if request.scenario.id == scenario)


@pytest.fixture(scope="module")
def usual(run: Run, baseline: Baseline) -> Callable[[str], JsonObject]:
    """Return a function that gives the certificate of a scenario's first run, made once; tests do not change it."""
    return cache(lambda scenario: certificate_of(run, baseline, request_for(run, scenario)))


@dataclass(frozen=True)
class Short:
    """A run of the embedded suite on few windows, for tests that compare certificates with each other.

    Attributes:
        baseline: which tests leave as it is.
        usual: gives the certificate of a scenario's first run, made once; tests do not change it.
    """

    run: Run
    baseline: Baseline
    usual: Callable[[str], JsonObject]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Short:
    run = on_few_windows(resolve_run(settings_for(tmp_path_factory.mktemp("short"))))
    baseline = load_baseline(run, prepare_model(run, run.suite.models[0]))
    return Short(run, baseline, cache(lambda scenario: certificate_of(run, baseline, request_for(run, scenario))))


@pytest.mark.parametrize("scenario", TWICE_SEEN)
def test_damage_is_seen_by_two_independent_signals(usual: Callable[[str], JsonObject], scenario: str) -> None:
    certificate = usual(scenario)

    print(f"{scenario:<20} {certificate['primary_metric']['ratio_vs_baseline']:>10.4g}", certificate["outcome"])  # noqa: T201
    assert len(certificate["outcome"]["signals"]) >= 2
    assert check_certificate(certificate) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, DRAWS + 1))
def test_an_unedited_model_never_alarms(run: Run, baseline: Baseline, number: int) -> None:
    request = replace(request_for(run, "calibration"), run=number)
    outcome = certificate_of(run, baseline, request)["outcome"]
    assert outcome == {"passed": True, "failed_gates": [], "warnings": [], "signals": []}
    if number > 1:  # what was measured on the first one serves other tests too
        del baseline.draws[number]


@pytest.mark.parametrize("scenario", ["quant_4bit_clean", "extreme_quant"])
def test_copies_of_originals_leave_free_what_the_placement_says(
    short: Short, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = short.run, []

    def room(_device: torch.device, left_free: int) -> float:
        asked.append(left_free)
        return math.inf

    monkeypatch.setattr(target, "room_for_copies", room)
    placed = load_baseline(run, prepare_model(run, run.suite.models[0]), Placement("cpu", {}, 8, left_free=123))
    request = request_for(run, scenario)
    with edited_subject(run, placed, request):
        assert set(asked) == {123}


@pytest.mark.parametrize("scenario", ["prune_50pct_stress", "extreme_quant"])
def test_originals_that_are_read_from_files_change_no_bit(
    short: Short, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, expected = request_for(short.run, scenario), short.usual(scenario)
    monkeypatch.setattr(target, "room_for_copies", lambda _device, _left_free: 0.0)
    monkeypatch.setattr(target, "_put_back", None)  # nothing may be copied
    for _ in range(2):
        made = certificate_of(short.run, short.baseline, request)
        assert made["certificate_digest"] == expected["certificate_digest"]


def test_a_baseline_that_cannot_be_put_back_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Path(shutil.copytree(EMBEDDED, tmp_path / "model"))
    run = on_few_windows(resolve_run(replace(settings_for(tmp_path), model=(str(model),))))
    request = request_for(run, "scale_explosion")
    bench = Workbench(run)
    baseline = bench.baseline(request)
    usual = certificate_of(run, baseline, request)
    monkeypatch.setattr(target, "room_for_copies", lambda _device, _left_free: 0.0)
    with pytest.raises(RestoreError, match="changed on disk"), edited_subject(run, baseline, request):
        os.utime(model / "model.safetensors", ns=(0, 0))
    assert baseline.released
    again = bench.baseline(request)
    assert again is not baseline
    assert certificate_of(run, again, request)["certificate_digest"] == usual["certificate_digest"]


@pytest.mark.parametrize("windows", [1, 5])
def test_on_a_cpu_the_batch_size_changes_no_bit(short: Short, windows: int) -> None:
    request, expected = request_for(short.run, "quant_4bit_clean"), short.usual("quant_4bit_clean")
    other = certificate_of(short.run, replace(short.baseline, draws={}, batch=BatchSize(windows)), request)
    assert expected["volatile"]["batch"]["windows"] == 8
    assert other["certificate_digest"] == expected["certificate_digest"]


def test_memory_that_runs_out_in_the_batch_that_is_watched_loses_nothing(short: Short) -> None:
    run, baseline = short.run, short.baseline
    request, expected, size = request_for(run, "calibration"), short.usual("calibration"), BatchSize(8)

    def run_out_once(_body: object, _args: object, arguments: dict[str, Any]) -> None:
        if len(arguments["input_ids"]) == 8 and not size.halvings:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = baseline.model.base_model.register_forward_pre_hook(run_out_once, with_kwargs=True)
    with edited_subject(run, replace(baseline, batch=size), request) as subject:
        certificate = certify(run, subject)
    handle.remove()
    assert certificate["volatile"]["batch"] == {"windows": 4, "halvings": 1}
    assert certificate["outcome"] == expected["outcome"]
    assert certificate["rmt"] == expected["rmt"]


@pytest.mark.parametrize("scope", ["ffn", "attn", "all"])
def test_a_single_matrix_scaled_is_not_stable(run: Run, baseline: Baseline, scope: str) -> None:
    """The system that this one replaces compares the edited model with itself and reports a ratio of 1 here."""
    from pytest_proofpack.edits.scope import select_matrices
    from pytest_proofpack.guards.spectral import derive_spectral
    from pytest_proofpack.measures.spectra import measure_spectra

    view = select_matrices(baseline.model, baseline.layout, scope)[0]
    name, before = view.label, view.read().clone()
    try:
        view.write(before * 100.0)
        measured = measure_spectra(
            baseline.model, baseline.layout, baseline.spectra.contract, baseline=baseline.spectra, changed=None
        )
    finally:
        view.write(before)
    block = derive_spectral(measured.evidence.to_json(), run.policy.section("spectral"))

    assert not block["stable"]
    worst = next(violation for violation in block["top_violations"] if violation["kind"] == "sigma_ratio")
    assert (worst["module"], worst["severity"]) == (name, "fatal")
    assert worst["value"] == pytest.approx(100.0, rel=1e-3)


def test_every_bit_is_back_after_a_suite(short: Short) -> None:
    run, baseline = short.run, short.baseline
    before = weights_digest(baseline.model)
    request = replace(run.requests[0], edit=edit_spec("quant_rtn:2:32:all"))
    certificate_of(run, baseline, request)
    assert weights_digest(baseline.model) == before
