"""Spectra of whole models: estimates against exact decompositions, and comparisons against what was done to weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.spectral import derive_spectral, measurement_contract
from pytest_proofpack.guards.spectral_evidence import MatrixChange, VectorChange
from pytest_proofpack.measures import singular
from pytest_proofpack.measures.singular import (
    largest_by_power_iteration,
    leading_singular_pairs,
    product_as_stored,
    random_start,
    row_and_column_norms,
)
from pytest_proofpack.measures.spectra import SpectraMeasure, measure_spectra
from pytest_proofpack.models.layout import ModelLayout, ParameterGroup, analyze_layout, input_embedding
from pytest_proofpack.models.matrices import MatrixView, every_matrix
from tests.support.faults import injected
from tests.support.small_models import EXPERTS, LAYERS, VOCABULARY, edit_spec, fingerprint, small_model

POLICY = resolve_policy("balanced").section("spectral")
CONTRACT = measurement_contract(POLICY)
GROUPS_OF_MODELS = ("llama", "gpt2", "qwen2", "mixtral")
CLEAN = ("quant_rtn:4:32:ffn", "fp8_quant:e5m2:ffn", "magnitude_prune:0.12:ffn", "lowrank_svd:4:ffn@layer=1")
WEIGHT = "model.layers.1.mlp.down_proj.weight"


def _trained_like(architecture: str, dtype: torch.dtype = torch.bfloat16) -> tuple[PreTrainedModel, ModelLayout]:
    """Build a model whose singular values fall off as those of trained matrices do, by a power law."""
    model = small_model(architecture, dtype=torch.float32, **({} if architecture == "gpt2" else {"hidden_size": 64}))
    layout = analyze_layout(model)
    for view in every_matrix(model, layout):
        if view.group not in (ParameterGroup.EMBED, ParameterGroup.HEAD):
            u, s, v = torch.linalg.svd(view.read(), full_matrices=False)
            view.write((u * (s[0] * torch.arange(1, len(s) + 1) ** -0.4)) @ v)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model, layout


def _baseline(model: PreTrainedModel, layout: ModelLayout) -> SpectraMeasure:
    return measure_spectra(model, layout, CONTRACT, baseline=None, changed=None)


def _matrices(measure: SpectraMeasure) -> dict[str, MatrixChange]:
    return {matrix.name: matrix for matrix in measure.evidence.matrices}


def _vectors(measure: SpectraMeasure) -> dict[str, VectorChange]:
    return {vector.name: vector for vector in measure.evidence.vectors}


def _all(measure: SpectraMeasure) -> dict[str, MatrixChange | VectorChange]:
    return {**_matrices(measure), **_vectors(measure)}


def _judge(measure: SpectraMeasure) -> JsonObject:
    return derive_spectral(measure.evidence.to_json(), POLICY)


def _exact(model: PreTrainedModel, layout: ModelLayout) -> dict[str, tuple[float, float]]:
    views = every_matrix(model, layout)
    return {view.label: (float(torch.linalg.matrix_norm(view.read(), 2)), float(view.read().norm())) for view in views}


def _changed_matrix(change: Callable[[Tensor], None], name: str = WEIGHT) -> MatrixChange:
    """Measure a Llama after ``change`` acted on one parameter."""
    model = small_model("llama")
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    with torch.no_grad():
        change(model.get_parameter(name))
    return _matrices(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed={name}))[name]


@pytest.mark.parametrize("architecture", GROUPS_OF_MODELS)
def test_estimates_are_within_half_a_percent_of_exact_values_for_every_matrix_and_clean_edit(
    architecture: str,
) -> None:
    model, layout = _trained_like(architecture)
    baseline = _baseline(model, layout)
    before = _exact(model, layout)
    assert set(_matrices(baseline)) == set(before)
    for spec in CLEAN:
        with edited(model, layout, edit_spec(spec), seed=0) as report:
            subject = _matrices(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=report.parameters))
            after = _exact(model, layout)
        for label, matrix in subject.items():
            assert matrix.sigma_base == pytest.approx(before[label][0], rel=1e-3)
            assert matrix.frobenius_base == pytest.approx(before[label][1], rel=1e-5)
            assert matrix.current_sigma == pytest.approx(after[label][0], rel=5e-3)
            assert matrix.frobenius in (None, pytest.approx(after[label][1], rel=1e-5))


def test_estimates_of_flat_spectra_the_hardest_stay_within_half_a_percent() -> None:
    generator = torch.Generator().manual_seed(5)
    batch = torch.randn(4, 512, 384, generator=generator)
    sigma, directions = leading_singular_pairs(batch, random_start(384, 1729, 8), 24)
    exact = torch.linalg.svdvals(batch)[:, 0]
    assert torch.all(sigma <= exact * (1 + 1e-5))
    assert torch.all(sigma >= exact * 0.995)
    noisy = batch + 0.1 * torch.randn(batch.shape, generator=generator)
    estimate = largest_by_power_iteration(noisy, directions, random_start(384, 1729, 8), CONTRACT["iterations"])
    ratio = (estimate / sigma) / (torch.linalg.svdvals(noisy)[:, 0] / exact)
    assert torch.all((ratio - 1).abs() < 0.005)


@pytest.mark.parametrize("growth", [1.3, 2.0, 100.0])
def test_a_new_dominant_direction_orthogonal_to_the_old_one_is_found(growth: float) -> None:
    generator = torch.Generator().manual_seed(6)
    batch = torch.randn(8, 384, 512, generator=generator)
    sigma, directions = leading_singular_pairs(batch, random_start(512, 1729, 8), 24)
    right = torch.randn(8, 512, generator=generator)
    right -= (right * directions).sum(dim=1, keepdim=True) * directions
    left = torch.randn(8, 384, generator=generator)
    added = torch.einsum("bm,bn->bmn", left / left.norm(dim=1, keepdim=True), right / right.norm(dim=1, keepdim=True))
    batch = batch + growth * sigma[:, None, None] * added
    exact = torch.linalg.svdvals(batch)[:, 0]
    start = random_start(512, CONTRACT["seed"], CONTRACT["random_starts"])
    estimate = largest_by_power_iteration(batch, directions, start, CONTRACT["iterations"])
    assert torch.all((estimate / exact - 1).abs() < 0.02)
    warm_only = largest_by_power_iteration(batch, directions, torch.zeros(1, 512), 2)
    assert growth > 2 or torch.any(warm_only < 0.9 * exact)


def test_norms_do_not_depend_on_how_a_batch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.randn(3, 17, 11)
    monkeypatch.setattr(singular, "CPU_BATCH_ELEMENTS", 3 * 11 * 4)
    rows, columns = row_and_column_norms(batch)
    torch.testing.assert_close(rows, batch.norm(dim=2))
    torch.testing.assert_close(columns, batch.norm(dim=1))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_by_slabs_give_what_all_rows_in_float32_give(
    dtype: torch.dtype, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(8)
    stored = torch.randn(1, 300, 40, generator=generator) @ torch.randn(1, 40, 200, generator=generator)
    batch = stored.to(dtype).mT if transposed else stored.to(dtype)
    start = random_start(batch.shape[2], 1729, 8)

    def measure(matrices: Tensor) -> list[Tensor]:
        sigma, directions = leading_singular_pairs(matrices, start, 24)
        estimate = largest_by_power_iteration(matrices, directions, start, 6)
        return [sigma, directions.abs(), estimate, *row_and_column_norms(matrices)]

    whole = measure(batch.float())
    for elements in (2**20, 64 * 64, 1):
        monkeypatch.setattr(singular, "CPU_BATCH_ELEMENTS", elements)
        torch.testing.assert_close(measure(batch), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_products_with_bfloat16_as_it_is_stored_are_those_of_float32(scale: float) -> None:
    generator = torch.Generator().manual_seed(9)
    vectors = scale * torch.randn(2, 8, 300, generator=generator)
    matrices = torch.randn(2, 300, 50, generator=generator).bfloat16()
    exact = vectors.double() @ matrices.double()
    found = product_as_stored(vectors, matrices)
    assert (found - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: elsewhere no matrix is multiplied as stored")
def test_a_gpu_finds_of_bfloat16_what_a_cpu_finds() -> None:
    generator = torch.Generator().manual_seed(10)
    flat = torch.randn(3, 1200, 800, generator=generator)
    steep = torch.randn(3, 1200, 40, generator=generator) @ torch.randn(3, 40, 800, generator=generator)
    batch = torch.cat((flat, steep, torch.zeros(1, 1200, 800))).bfloat16()
    start = random_start(800, 1729, 8)
    sigma, directions = leading_singular_pairs(batch, start, 24)
    found, alike = leading_singular_pairs(batch.cuda(), start.cuda(), 24)
    torch.testing.assert_close(found.cpu(), sigma, rtol=1e-5, atol=0)
    assert torch.all((alike.cpu() * directions).sum(dim=1)[:-1].abs() > 1 - 1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_matrix_whose_products_are_not_finite_leaves_the_others_of_its_batch_alone(value: float) -> None:
    batch = torch.randn(3, 24, 30, generator=torch.Generator().manual_seed(9))
    start = random_start(30, 1729, 8)
    before, directions = leading_singular_pairs(batch, start, 24)
    batch[1, 5, 7] = value
    after, found = leading_singular_pairs(batch, start, 24)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.equal(found[[0, 2]], directions[[0, 2]])
    assert after[1] == (0 if not math.isfinite(value) else pytest.approx(value))
    assert not row_and_column_norms(batch)[0].norm(dim=1)[1].isfinite(), "so it is recorded as not finite"


@pytest.mark.parametrize("architecture", ["mixtral", "phi3"])
def test_batches_give_what_single_matrices_give(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(architecture, dtype=torch.bfloat16)
    layout = analyze_layout(model)

    def measure() -> dict[str, MatrixChange]:
        baseline = _baseline(model, layout)
        with edited(model, layout, edit_spec("quant_rtn:3:32:all"), seed=0) as report:
            return _matrices(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=report.parameters))

    together = measure()
    monkeypatch.setattr(singular, "CPU_BATCH_ELEMENTS", 300)
    for name, alone in measure().items():
        numbers = vars(together[name])
        for key, value in vars(alone).items():
            assert numbers[key] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)


@pytest.mark.parametrize("architecture", GROUPS_OF_MODELS)
@pytest.mark.parametrize("edit", CLEAN)
def test_clean_edits_are_stable(architecture: str, edit: str) -> None:
    model, layout = _trained_like(architecture)
    baseline = _baseline(model, layout)
    with edited(model, layout, edit_spec(edit), seed=0) as report:
        derived = _judge(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=report.parameters))
    assert derived["stable"], derived["top_violations"]
    assert derived["caps_applied"] == 0 or edit.startswith("lowrank")


@pytest.mark.parametrize("architecture", GROUPS_OF_MODELS)
@pytest.mark.parametrize(
    "fault", ["scale_explosion", "rank_collapse", "norm_collapse", "extreme_quant", "nan_injection", "inf_injection"]
)
def test_damage_is_not_stable(architecture: str, fault: str) -> None:
    model, layout = _trained_like(architecture)
    baseline = _baseline(model, layout)
    with injected(model, layout, fault, seed=0) as report:
        derived = _judge(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=report.parameters))
    assert not derived["stable"]
    after = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=None)
    assert _judge(after)["stable"], "the guard must see the damage, not the model"


def test_one_layer_at_low_rank_is_budgeted_and_severe_but_stable() -> None:
    model, layout = _trained_like("llama")
    baseline = _baseline(model, layout)
    with edited(model, layout, edit_spec("lowrank_svd:2:ffn@layer=1"), seed=0) as report:
        derived = _judge(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=report.parameters))
    assert derived["stable"]
    assert derived["caps_applied_by_family"] == {"ffn": 3}
    assert "severe_violations" in derived["warnings"]


def test_experts_of_one_fused_parameter_are_measured_apart_and_counted_once() -> None:
    model = small_model("mixtral")
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    name = "model.layers.0.mlp.experts.down_proj"
    with torch.no_grad():
        model.get_parameter(name)[1:4].mul_(1.5)
    measure = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed={name})
    ratios = {
        matrix.name: matrix.sigma / matrix.sigma_base
        for matrix in measure.evidence.matrices
        if matrix.parameter == name and matrix.sigma and matrix.sigma_base
    }
    expected = {f"{name}[expert{index}]": 1.5 if 1 <= index < 4 else 1.0 for index in range(EXPERTS)}
    assert ratios == pytest.approx(expected, rel=1e-3)
    derived = _judge(measure)
    assert derived["violation_counts"] == {"sigma_ratio_budgeted": 3}
    assert derived["caps_applied"] == 1


def test_rows_of_a_conv1d_are_its_outputs() -> None:
    model = small_model("gpt2")
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    name = "transformer.h.0.mlp.c_fc.weight"
    with torch.no_grad():
        model.get_parameter(name)[:, 7] *= 0.2  # stored as (inputs, outputs)
    matrix = _matrices(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed={name}))[name]
    assert matrix.row_min == pytest.approx(0.2, rel=1e-5)
    assert matrix.column_min is not None
    assert matrix.column_min > 0.8


def test_rows_and_columns_are_compared_with_themselves() -> None:
    def change(weight: Tensor) -> None:
        weight[3] *= 0.125
        weight[:, 5] *= 20

    matrix = _changed_matrix(change)
    assert matrix.row_min == pytest.approx(0.125, rel=0.6)
    assert matrix.column_max == pytest.approx(20, rel=0.02)
    assert matrix.row_max is not None
    assert matrix.row_max < 15


def test_small_rows_may_shrink_or_reach_the_usual_size_but_not_explode() -> None:
    def measure(factor: float) -> MatrixChange:
        model = small_model("llama")
        layout = analyze_layout(model)
        weight = input_embedding(model).weight
        with torch.no_grad():
            weight[9] *= 1e-4
            baseline = _baseline(model, layout)
            weight[9] *= factor
        name = "model.embed_tokens.weight"
        return _matrices(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed={name}))[name]

    assert (measure(0.0).row_min, measure(0.0).row_max) == (1.0, 1.0)
    assert measure(1e4).row_max == pytest.approx(1.0, abs=0.5)
    exploded = measure(1e6).row_max
    assert exploded is not None
    assert exploded > 50


def test_single_entries_are_no_columns() -> None:
    model = small_model("qwen2_moe")
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    name = "model.layers.0.mlp.shared_expert_gate.weight"
    with torch.no_grad():
        weight = model.get_parameter(name)
        weight[0, weight[0].abs().argsort()[8]] = 0  # a pruned entry: a column of one entry
    matrix = _matrices(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed={name}))[name]
    assert (matrix.column_min, matrix.column_max) == (1.0, 1.0)
    assert matrix.row_min is not None
    assert 0.8 < matrix.row_min < 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [WEIGHT, "model.embed_tokens.weight", "model.norm.weight"])
def test_values_that_are_not_finite_are_seen_and_stay_where_they_are(value: float, name: str) -> None:
    model = small_model("llama", dtype=torch.bfloat16)
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] = value
    measure = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=None)
    before, after = _all(baseline), _all(measure)
    assert {key for key, change in after.items() if change.state == "not_finite"} == {name}
    assert vars(after[name]) == {**vars(before[name]), "state": "not_finite"}
    assert not _judge(measure)["stable"]


def test_a_baseline_that_is_not_finite_is_said_to_be_so() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    with torch.no_grad():
        model.get_parameter(WEIGHT)[0, 0] = math.nan
    baseline = _baseline(model, layout)
    assert _matrices(baseline)[WEIGHT] == MatrixChange(WEIGHT, "ffn", "same")  # as itself, without a number
    subject = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=None)
    assert _matrices(subject)[WEIGHT].state == "not_finite"
    assert _judge(subject)["violation_counts"] == {"not_finite_fatal": 1}


def test_parameters_that_did_not_change_are_not_looked_at() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    with torch.no_grad():
        model.get_parameter(WEIGHT).fill_(math.nan)
    measure = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=())
    assert measure.evidence == baseline.evidence
    assert {matrix.state for matrix in measure.evidence.matrices} == {"same"}


def test_an_unedited_model_that_is_measured_wholly_is_stable_and_as_before() -> None:
    model = small_model("qwen2", dtype=torch.bfloat16)
    layout = analyze_layout(model)
    before = fingerprint(model)
    baseline = _baseline(model, layout)
    measure = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=None)
    assert fingerprint(model) == before
    derived = _judge(measure)
    assert derived["stable"]
    assert not derived["warnings"]
    assert derived["summary"]["max_sigma_ratio"] == pytest.approx(1.0, abs=2e-3)
    assert measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=None) == measure


def test_gains_are_compared_one_by_one_and_biases_only_as_a_whole() -> None:
    model = small_model("gpt2")
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    gain, bias, plain = "transformer.ln_f.weight", "transformer.ln_f.bias", "transformer.h.0.mlp.c_fc.bias"
    with torch.no_grad():
        model.get_parameter(gain)[4] *= -0.05
        model.get_parameter(bias)[4] = 0
        model.get_parameter(plain).mul_(3)
    measure = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed={gain, bias, plain})
    vectors = _vectors(measure)
    assert vectors[gain].ratio_min == pytest.approx(0.05, rel=1e-4)
    assert vectors[gain].ratio_max == 1.0
    assert vectors[bias].ratio_min is None
    assert vectors[plain].change == pytest.approx(2.0)
    assert vectors[plain].norm == pytest.approx(3 * (vectors[plain].norm_base or 0), rel=1e-5)
    assert _judge(measure)["violation_counts"] == {"gain_ratio_fatal": 1}


def test_a_zeroed_row_of_a_tied_embedding_is_fatal() -> None:
    model = small_model("qwen2")
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    assert sum(matrix.group in ("embed", "head") for matrix in baseline.evidence.matrices) == 1
    with torch.no_grad():
        input_embedding(model).weight[VOCABULARY - 1] = 0
    measure = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed={"model.embed_tokens.weight"})
    assert _judge(measure)["violation_counts"] == {"row_ratio_fatal": 1}


@pytest.mark.parametrize(
    ("architecture", "added"), [("qwen2", ("lm_head.weight",)), ("llama", ())], ids=["untied", "tied"]
)
def test_broken_tying_is_recorded(architecture: str, added: tuple[str, ...]) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    with injected(model, layout, "weight_tying_break", seed=0) as report:
        measure = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=report.parameters)
    assert measure.evidence.added == added
    assert len(measure.evidence.matrices) == len(baseline.evidence.matrices)
    if architecture == "llama":
        assert _matrices(measure)["lm_head.weight"].state == "measured"


def test_a_larger_vocabulary_is_compared_in_the_common_rows() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    with injected(model, layout, "shape_mismatch", seed=0) as report:
        with torch.no_grad():
            input_embedding(model).weight[3] *= 30
        measure = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=report.parameters)
    assert set(measure.evidence.reshaped) == {"model.embed_tokens.weight", "lm_head.weight"}
    embedding, head = (_matrices(measure)[name] for name in ("model.embed_tokens.weight", "lm_head.weight"))
    assert embedding.row_max == pytest.approx(30, rel=1e-4)
    assert (head.row_min, head.row_max) == (1.0, 1.0)


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gpt2"])
def test_a_reshaped_matrix_never_raises(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    attention = {view.parameter: view for view in every_matrix(model, layout) if view.group is ParameterGroup.ATTN}
    for name in attention:
        owner = model.get_submodule(name.rpartition(".")[0])
        owner.weight = torch.nn.Parameter(model.get_parameter(name)[:-3].clone())
    derived = _judge(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=()))
    assert "reshaped_tensors" in derived["warnings"]
    assert derived["summary"]["modules_changed"] >= len(attention)


def test_a_dropped_block_is_missing_and_fatal() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    with injected(model, layout, "missing_tensors", seed=0) as report:
        measure = measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=report.parameters)
    last = f"model.layers.{LAYERS - 1}."
    changes = _all(measure)
    missing = {name for name, change in changes.items() if change.state == "missing"}
    assert missing == {name for name in changes if name.startswith(last)}
    assert not _judge(measure)["stable"]


def test_experts_of_an_unknown_layout_are_compared_as_one_matrix() -> None:
    model = small_model("mixtral")
    layout = analyze_layout(model)
    name = "model.layers.0.mlp.experts.down_proj"
    known = {own: count for own, count in layout.weights.items() if own != name}
    groups = {**layout.groups, name: ParameterGroup.OTHER}
    layout = ModelLayout(**{**vars(layout), "groups": groups, "weights": known})
    baseline = _baseline(model, layout)
    with torch.no_grad():
        model.get_parameter(name)[2] *= 50
    matrix = _matrices(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed={name}))[name]
    assert matrix.row_max == pytest.approx(50, rel=1e-4)


def test_a_baseline_by_another_contract_is_refused() -> None:
    model = small_model("llama", num_hidden_layers=1)
    layout = analyze_layout(model)
    baseline = _baseline(model, layout)
    with pytest.raises(EvaluationError, match="another contract"):
        measure_spectra(model, layout, {**CONTRACT, "seed": 1}, baseline=baseline, changed=())


def test_zero_matrices_compare_without_dividing_by_zero() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    with torch.no_grad():
        model.get_parameter(WEIGHT).zero_()
    baseline = _baseline(model, layout)
    assert _judge(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=None))["stable"]
    with torch.no_grad():
        model.get_parameter(WEIGHT)[0, 0] = 1
    derived = _judge(measure_spectra(model, layout, CONTRACT, baseline=baseline, changed=None))
    assert derived["violation_counts"] == {"sigma_ratio_fatal": 1}


def test_views_that_are_not_contiguous_are_read_as_their_values() -> None:
    model = small_model("gpt_neox")
    layout = analyze_layout(model)
    measured = _matrices(_baseline(model, layout))
    views: list[MatrixView] = [view for view in every_matrix(model, layout) if view.part == "key"]
    assert views
    for view in views:
        assert measured[view.label].frobenius_base == pytest.approx(float(view.read().norm()), rel=1e-5)
