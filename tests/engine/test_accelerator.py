"""What only a GPU can show: a model spread over devices is certified as on one, and a GPU as a CPU.

With one GPU, the second device is the CPU: the first layers compute there, the others on the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.devices.placement import Placement
from pytest_proofpack.edits import approximation, target
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.edits.lowrank import apply_lowrank_svd
from pytest_proofpack.edits.order_statistics import prune_smallest
from pytest_proofpack.edits.stored import StoredWeights
from pytest_proofpack.edits.target import Originals
from pytest_proofpack.engine import baseline as baseline_module
from pytest_proofpack.engine import edited_checkpoint as subjects_module
from pytest_proofpack.engine.baseline import Baseline, load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject, loaded_subject
from pytest_proofpack.engine.edited_checkpoint import load_checkpoint
from pytest_proofpack.engine.passes import sample_losses
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.measures.distribution import BaselineDistribution, SubjectDistribution, model_cache_plan
from pytest_proofpack.models import pieces
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.forward import BatchSize
from pytest_proofpack.models.layout import ParameterGroup, analyze_layout
from pytest_proofpack.models.load import LoadedModel, load_model
from pytest_proofpack.models.matrices import MatrixView
from pytest_proofpack.plan.records import CertificateRequest, ModelSpec
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.text.windows import SampledWindows
from tests.support.default_settings import DEFAULTS
from tests.support.edited_checkpoints import edited_copy, quantize
from tests.support.model_files import TOKENS, build_model_directory
from tests.support.small_models import edit_spec, fingerprint, weights_digest
from tests.support.small_runs import SHAPES, outcomes, small_run
from tests.support.small_runs import certificates as small_certificates
from tests.support.subject_runs import subject_run

pytestmark = pytest.mark.gpu

WEIGHTS = 4_100_000
"""Bytes of the embedded model."""
BATCH = 8
TOLERANCE = {"cpu": 2e-4, "gpu_and_cpu": 2e-4, "two_gpus": 2e-5}
"""Largest relative difference of a clean edit's ratio from a single GPU's; a GPU multiplies float32 as TF32."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("accelerator") / "run"
    settings = replace(DEFAULTS, suite="tiny", no_pack=True, sign="off", out=str(out), runs={"calibration": 1})
    return resolve_run(replace(settings, device="cuda"))


@pytest.fixture(scope="module")
def requests(run: Run) -> list[CertificateRequest]:
    return list({request.scenario.id: request for request in run.requests}.values())


def test_no_more_is_taken_than_the_option_says(run: Run) -> None:
    limited = replace(run, settings=replace(run.settings, gpu_memory=1.0))
    load_baseline(limited, prepare_model(limited, limited.suite.models[0]))
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2**30, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_weights_go_to_it_in_pieces_and_are_hashed_there(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 1000)
    directory = build_model_directory(tmp_path / "model", architecture, shard_size="40KB")
    on_host, on_gpu = (load_model(ModelSpec("m", directory), device) for device in ("cpu", "cuda"))
    assert on_gpu.reading.digest() == CheckpointFiles.at(directory).digest
    assert weights_digest(torch.nn.Module.to(on_gpu.model, "cpu")) == weights_digest(on_host.model)


def test_what_has_no_room_there_is_put_back_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 1000)
    monkeypatch.setattr(target, "room_for_copies", lambda _device, _left_free: 0.0)
    directory = build_model_directory(tmp_path / "model", dtype=torch.bfloat16)
    model = load_model(ModelSpec("m", directory), "cuda").model
    layout, originals, before = analyze_layout(model), Originals(stored=StoredWeights(directory)), fingerprint(model)
    for _ in range(2):
        with edited(model, layout, edit_spec("quant_rtn:4:32:all"), seed=0, originals=originals):
            assert fingerprint(model) != before
        assert fingerprint(model) == before


def certificates(run: Run, baseline: Baseline, requests: list[CertificateRequest]) -> dict[str, JsonObject]:
    made = {}
    for request in requests:
        with edited_subject(run, baseline, request) as subject:
            made[request.scenario.id] = certify(run, subject)
    return made


@pytest.fixture(scope="module")
def on_one_gpu(run: Run, requests: list[CertificateRequest]) -> dict[str, JsonObject]:
    return certificates(run, load(run, Placement("cuda:0", {}, BATCH)), requests)


def load(run: Run, placement: Placement) -> Baseline:
    return load_baseline(run, prepare_model(run, run.suite.models[0]), placement)


def beside_the_cpu(spec: ModelSpec, _device: str, *, max_memory: Mapping[int, int]) -> LoadedModel:
    """Load a model whose embeddings and first two layers compute on the CPU, the other layers on the GPU."""
    from accelerate import dispatch_model

    loaded = load_model(spec, "cpu")
    layers = len(loaded.model.model.layers)
    places: dict[str, Any] = {f"model.layers.{index}": "cpu" if index < 2 else 0 for index in range(layers)}
    rest = {"model.embed_tokens": "cpu", "model.norm": 0, "model.rotary_emb": "cpu", "lm_head": "cpu"}
    dispatch_model(loaded.model, {**places, **rest}, main_device="cpu")
    return loaded


@pytest.fixture(params=["gpu_and_cpu", pytest.param("two_gpus", marks=pytest.mark.gpu(2)), "cpu"])
def elsewhere(
    request: pytest.FixtureRequest, run: Run, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Baseline]]:
    kind: str = request.param
    if kind == "two_gpus":
        share = WEIGHTS * 3 // 4
        yield kind, load(run, Placement("cuda:0", {0: share, 1: share}, BATCH))
    elif kind == "gpu_and_cpu":
        monkeypatch.setattr(baseline_module, "load_model", beside_the_cpu)
        yield kind, load(run, Placement("cuda:0", {}, BATCH))
    else:
        yield kind, load(run, Placement("cpu", {}, BATCH))


def test_where_a_model_computes_changes_no_verdict(
    run: Run,
    requests: list[CertificateRequest],
    on_one_gpu: dict[str, JsonObject],
    elsewhere: tuple[str, Baseline],
) -> None:
    kind, baseline = elsewhere
    devices = {parameter.device for parameter in baseline.model.parameters()}
    assert len(devices) == (1 if kind == "cpu" else 2)
    before = weights_digest(baseline.model)
    made = certificates(run, baseline, requests)
    assert weights_digest(baseline.model) == before
    for scenario, certificate in made.items():
        expected = on_one_gpu[scenario]
        assert certificate["outcome"] == expected["outcome"], scenario
        assert check_certificate(certificate) == []
        if expected["outcome"]["passed"]:
            ratio, other = (one["primary_metric"]["ratio_vs_baseline"] for one in (certificate, expected))
            assert ratio == pytest.approx(other, rel=TOLERANCE[kind]), scenario
    assert len(made) > 15


@pytest.mark.parametrize("windows", [1, 5, 64])
def test_the_batch_size_changes_no_outcome_and_hardly_a_number(
    run: Run, requests: list[CertificateRequest], on_one_gpu: dict[str, JsonObject], windows: int
) -> None:
    """The bounds are those that docs/behaviour.md states."""
    baseline = load(run, Placement("cuda:0", {}, windows))
    for scenario, certificate in certificates(run, baseline, requests).items():
        expected = on_one_gpu[scenario]
        assert certificate["outcome"] == expected["outcome"], scenario
        if expected["outcome"]["passed"]:
            ours, others = certificate["primary_metric"], expected["primary_metric"]
            assert ours["ratio_vs_baseline"] == pytest.approx(others["ratio_vs_baseline"], rel=1e-4)
            assert ours["display_ci"] == pytest.approx(others["display_ci"], rel=5e-4)


def test_a_subject_is_spread_as_its_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline makes way first, so the subject is compared with its files, tensor by tensor, on every device."""
    edited_copy(tmp_path / "edited" / "quant_rtn", quantize)
    run = subject_run(tmp_path, "edited", device="cuda")
    request = next(request for request in run.requests if request.subject is not None)

    def certificate_of(placement: Placement) -> JsonObject:
        bench = Workbench(run)
        bench.inputs.prepare(request.model)
        baseline = load_baseline(run, bench.inputs.prepare(request.model), placement)
        checkpoint = load_checkpoint(run, baseline, bench.inputs.prepare_subject(request))
        return certify(run, loaded_subject(run, baseline, request, checkpoint))

    alone = certificate_of(Placement("cuda:0", {}, BATCH))
    for module in (baseline_module, subjects_module):
        monkeypatch.setattr(module, "load_model", beside_the_cpu)
    spread = certificate_of(Placement("cuda:0", {0: WEIGHTS}, BATCH))
    assert (alone["structure"]["changes"]["source"], spread["structure"]["changes"]["source"]) == ("memory", "files")
    assert spread["outcome"] == alone["outcome"]
    assert spread["structure"]["parameters_changed"] == alone["structure"]["parameters_changed"] != []
    for group, facts in spread["structure"]["summary"]["families"].items():
        change = alone["structure"]["summary"]["families"][group]["relative_change"]
        assert facts["relative_change"] == pytest.approx(change, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("sparsity", [0.12, 0.5, 1.0])
def test_a_gpu_prunes_as_a_cpu_does(dtype: torch.dtype, sparsity: float) -> None:
    matrix = torch.randn(1000, 999, generator=torch.Generator().manual_seed(0)).mul(0.02).to(dtype)
    matrix[3, 4], matrix[5] = torch.inf, 0.0
    own = matrix.cuda()
    torch.use_deterministic_algorithms(True)
    try:
        prune_smallest(own, sparsity)
    finally:
        torch.use_deterministic_algorithms(False)
    prune_smallest(matrix, sparsity)
    assert torch.equal(own.cpu(), matrix)


def test_matrices_that_are_approximated_together_get_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    originals = [
        torch.randn(1024, 640 + 64 * (index % 3), generator=generator).bfloat16().cuda() for index in range(24)
    ]
    edit = edit_spec("lowrank_svd:32:all")
    seen = []
    for together in (1, 4, 4):
        monkeypatch.setattr(approximation, "TOGETHER", together)
        views = [MatrixView(f"m{index}", "", ParameterGroup.FFN, own.clone()) for index, own in enumerate(originals)]
        report = apply_lowrank_svd(views, edit.parameters, 0)
        seen.append((report, [view.tensor.cpu() for view in views]))
    for report, matrices in seen[1:]:
        assert report == seen[0][0]
        assert all(torch.equal(ours, others) for ours, others in zip(matrices, seen[0][1], strict=True))


def test_originals_stay_on_the_device_that_they_belong_to(run: Run, requests: list[CertificateRequest]) -> None:
    baseline = load(run, Placement("cuda:0", {}, BATCH))
    request = next(request for request in requests if request.scenario.id == "prune_50pct_stress")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with edited_subject(run, baseline, request) as subject:
        kept = torch.cuda.memory_allocated() - before
        edited = sum(baseline.model.get_parameter(name).nbytes for name in subject.report.parameters)
    assert kept >= edited > 0


needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs; fake ones are tested")


def shares(model: PreTrainedModel) -> dict[int, int]:
    """Return what two GPUs may hold so that neither holds all."""
    share = (
        sum(own.nbytes for own in model.parameters()) * 3 // 4
    )  # beside a device's own share accelerate keeps room for the largest layer
    return {0: share, 1: share}


@needs_two
@pytest.mark.parametrize("shape", SHAPES)
def test_every_scenario_ends_over_two_gpus_as_on_one(shape: str, tmp_path: Path) -> None:
    run = small_run(shape, tmp_path, "cuda")
    alone = load(run, Placement("cuda:0", {}, BATCH))
    expected = outcomes(small_certificates(run, alone))
    baseline = load(run, Placement("cuda:0", shares(alone.model), BATCH))
    assert len({own.device for own in baseline.model.parameters()}) == 2
    before = weights_digest(baseline.model)
    assert outcomes(small_certificates(run, baseline)) == expected
    assert weights_digest(baseline.model) == before


@needs_two
@pytest.mark.parametrize("shape", SHAPES)
def test_batches_in_flight_over_two_gpus_change_no_bit(shape: str, tmp_path: Path) -> None:
    """In many small batches, so that whatever comes too early has its chance."""
    spec = ModelSpec(shape, build_model_directory(tmp_path / shape, shape, num_hidden_layers=6))
    model = load_model(spec, "cuda:0", max_memory=shares(load_model(spec, "cpu").model)).model
    assert len({own.device for own in model.parameters()}) == 2
    tokens = np.random.default_rng(0).integers(TOKENS, size=(96, 64))
    ids = tuple(map(str, range(48)))
    windows = SampledWindows(tokens[:48], tokens[48:], ids, ids, seed=0)
    seen = []
    for lanes in (1, 2, 3, 5):
        recorder = BaselineDistribution(model_cache_plan(model, windows.final))
        losses = sample_losses(model, windows, BatchSize(2, lanes=lanes), 2, observer=recorder)
        cache = recorder.cache()
        compared = SubjectDistribution(cache)
        again = sample_losses(model, windows, BatchSize(2, lanes=lanes), 2, observer=compared)
        assert again == losses
        facts = {
            **cache.to_arrays(),
            "losses": np.array(losses.preview.losses + losses.final.losses),
            "kl": np.array(compared.facts().kl_mean),
        }
        seen.append({name: values.tobytes() for name, values in facts.items()})
    assert all(facts == seen[0] for facts in seen)
