"""The work of a run, from the files of its models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.plan.records import ModelSpec, WindowPlan
from pytest_proofpack.plan.suites import EMBEDDED
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.scheduling.costs import CPU, GPU
from pytest_proofpack.scheduling.workload import DeviceFacts, model_size, workload
from tests.support.default_settings import DEFAULTS
from tests.support.model_files import build_model_directory
from tests.support.small_models import EXPERTS

PLAN = WindowPlan(seq_len=32, preview=10, final=20, seed=1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return resolve_run(replace(DEFAULTS, suite="tiny", out=str(tmp_path)))


def test_every_certificate_is_a_job_of_its_model(run: Run) -> None:
    assert "tiny" in EMBEDDED
    work = workload(run, lambda _: PLAN, DeviceFacts(speed=CPU, needed={"proofpack/tiny": 2}))
    seconds = {request.scenario.id: job.seconds for request, job in zip(run.requests, work.jobs, strict=True)}

    assert [job.index for job in work.jobs] == list(range(len(run.requests)))
    assert [(load.id, load.devices) for load in work.loads] == [("proofpack/tiny", 2)]
    assert seconds["svd_rank32_stress"] > seconds["prune_50pct_stress"] > seconds["quant_4bit_stress"]
    assert seconds["quant_4bit_stress"] > seconds["calibration"] == seconds["svd_rank32_l31_clean"]


def test_only_the_ratio_of_loads_to_certificates_depends_on_the_device(run: Run) -> None:
    on_cpu, on_gpu = (workload(run, lambda _: PLAN, DeviceFacts(speed)) for speed in (CPU, GPU))

    ratios = {round(slow.seconds / fast.seconds) for slow, fast in zip(on_cpu.jobs, on_gpu.jobs, strict=True)}
    assert ratios == {round(GPU.flops / CPU.flops)}


def test_a_mixture_of_experts_computes_with_some_of_its_parameters(tmp_path: Path) -> None:
    sizes = {}
    for name in ("mixtral", "llama"):
        path = build_model_directory(tmp_path / name, name)
        sizes[name] = model_size(ModelSpec(name, path), PLAN, 1)
        assert sizes[name].weights == CheckpointFiles.at(path).size
        assert sizes[name].tokens == 30 * 32

    assert sizes["llama"].active == CheckpointFiles.at(tmp_path / "llama").parameters
    assert sizes["mixtral"].active == pytest.approx(CheckpointFiles.at(tmp_path / "mixtral").parameters * 2 / EXPERTS)


def test_each_edited_checkpoint_is_a_load_of_its_own(tmp_path: Path) -> None:
    base = build_model_directory(tmp_path / "base")
    subjects = [build_model_directory(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"), 1)]
    given = replace(DEFAULTS, baseline=str(base), subject=tuple(map(str, subjects)), out=str(tmp_path / "run"))
    run = resolve_run(given)
    work = workload(run, lambda _: PLAN, DeviceFacts(speed=CPU))

    alone = {load.id: load.seconds for load in work.loads}
    assert len(alone) == 3 if any(request.subject is None for request in run.requests) else 2
    weights = CheckpointFiles.at(base).size
    assert max(alone.values()) == pytest.approx(CPU.start + 2 * weights / CPU.load)
