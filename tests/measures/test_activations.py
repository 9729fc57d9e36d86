"""Activations of small models of several architectures, against a straightforward computation with svdvals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AfmoeConfig, AutoModelForCausalLM, PreTrainedModel

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.guards.activations import State, activation_contract, calibration_windows
from pytest_proofpack.guards.moe import derive_moe, moe_evidence
from pytest_proofpack.guards.rmt import derive_rmt, rmt_evidence
from pytest_proofpack.guards.variance import derive_variance, proposed_scales, variance_evidence
from pytest_proofpack.measures import sublayers
from pytest_proofpack.measures.activations import (
    ActivationMeasure,
    ActivationWatch,
    _scaling_hook,
    measure_activations,
    scaled_losses,
)
from pytest_proofpack.measures.null_statistics import null_edge_ratios
from pytest_proofpack.models.forward import window_losses
from pytest_proofpack.models.layout import ModelLayout, ParameterGroup, analyze_layout
from tests.support.faults import injected
from tests.support.small_models import EXPERTS, HIDDEN, LAYERS, VOCABULARY, fingerprint, small_model

ARCHITECTURES = ("llama", "gpt2", "qwen2", "mixtral", "gpt_oss", "gpt_neox", "opt")
WINDOWS = np.random.default_rng(0).integers(VOCABULARY, size=(11, 24))
CONTRACT = activation_contract()
TOKENS = 8 * 24
POLICY = resolve_policy("balanced")


def outputs_of(model: PreTrainedModel, layout: ModelLayout, windows: np.ndarray) -> dict[str, torch.Tensor]:
    """The output of every branch, one window at a time, in float64, shape (tokens, features)."""
    kept: dict[str, list[torch.Tensor]] = {sublayer.name: [] for sublayer in layout.sublayers}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, parts=parts: parts.append(
                (output[0] if isinstance(output, tuple) else output).detach().reshape(-1, HIDDEN).double()
            )
        )
        for name, parts in kept.items()
    ]
    with torch.no_grad():
        for window in torch.from_numpy(windows):
            model(input_ids=window[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in kept.items()}


def edge_risk(activations: torch.Tensor, baseline: torch.Tensor) -> float:
    white = (activations - baseline.mean(dim=0)) / baseline.std(dim=0, correction=0)
    return float(torch.linalg.svdvals(white)[0]) / (math.sqrt(len(white)) + math.sqrt(HIDDEN))


def multiply_ffn(model: PreTrainedModel, layout: ModelLayout, factor: float, block: int = 1) -> None:
    """Scale the last feed-forward matrix of a block."""
    name = [
        name for name in layout.names(ParameterGroup.FFN) if layout.block_of[name] == block and name.count("bias") == 0
    ][-1]
    with torch.no_grad():
        model.get_parameter(name).mul_(factor)


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def judged(baseline: ActivationMeasure, subject: ActivationMeasure) -> tuple[dict[str, Any], dict[str, Any]]:
    pair = baseline.facts, subject.facts
    rmt = derive_rmt(rmt_evidence(*pair), POLICY.section("rmt"))
    return rmt, derive_variance(variance_evidence(*pair), POLICY.section("variance"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_reference_before_and_after_an_edit(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    before = outputs_of(model, layout, WINDOWS[:8])
    multiply_ffn(model, layout, 1.5)
    subject = measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline)
    after = outputs_of(model, layout, WINDOWS[:8])
    assert [*subject.facts.sublayers] == [sublayer.name for sublayer in layout.sublayers]
    assert len(layout.sublayers) == 2 * LAYERS
    for measure, outputs in ((baseline, before), (subject, after)):
        for name, fact in measure.facts.sublayers.items():
            assert fact.edge == pytest.approx(edge_risk(outputs[name], before[name]), rel=2e-3)
            assert fact.variance == pytest.approx(float(outputs[name].var(dim=0, correction=0).mean()), rel=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_model_measures_exactly_the_same_and_stays_as_it_was(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    before = fingerprint(model)
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    subject = measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline)
    assert subject.facts == baseline.facts
    rmt, variance = judged(baseline, subject)
    assert {group["ratio"] for group in rmt["families"].values()} == {1.0}
    assert (variance["max_ratio"], variance["min_ratio"], variance["proposed_scales"]) == (1.0, 1.0, {})
    assert (rmt["stable"], variance["status"]) == (True, "pass")
    assert fingerprint(model) == before
    assert hooks_of(model) == 0


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mixtral"])
def test_a_feed_forward_matrix_times_100_is_seen_by_both_guards(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    multiply_ffn(model, layout, 100.0)
    rmt, variance = judged(baseline, measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline))
    worst = next(
        sublayer for sublayer in layout.sublayers if (sublayer.block, sublayer.group) == (1, ParameterGroup.FFN)
    ).name
    assert rmt["stable"] is False
    assert rmt["families"]["ffn"]["branch"] == worst
    assert rmt["families"]["ffn"]["ratio"] > 30
    assert variance["status"] == "fail"
    assert worst in variance["branches_above_max"]["names"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("fault", ["nan_injection", "inf_injection", "missing_tensors"])
def test_faults_are_recorded_and_fail_both_guards(architecture: str, fault: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    with injected(model, layout, fault, seed=0):
        subject = measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline)
    states = {sublayer.state for sublayer in subject.facts.sublayers.values()}
    assert (State.MISSING if fault == "missing_tensors" else State.NON_FINITE) in states
    rmt, variance = judged(baseline, subject)
    assert (rmt["stable"], variance["passed"]) == (False, False)


def test_only_sublayers_behind_a_nan_are_not_finite() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    multiply_ffn(model, layout, math.nan, block=1)
    subject = measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline)
    states = [sublayer.state for sublayer in subject.facts.sublayers.values()]
    assert states == [State.MEASURED] * 3 + [State.NON_FINITE] * 3


def test_a_sublayer_of_another_width_is_recorded() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    name = layout.sublayers[0].name
    shrunk = replace(baseline.whitening[name], mean=baseline.whitening[name].mean[1:])
    baseline = replace(baseline, whitening={**baseline.whitening, name: shrunk})
    subject = measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline)
    assert subject.facts.sublayers[name].state is State.RESHAPED
    assert judged(baseline, subject)[0]["epsilon_violations"][0]["reason"] == "reshaped"


def test_a_silent_sublayer_and_a_constant_feature_are_no_division_by_zero() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    down = {name: model.get_parameter(name) for name in layout.names(ParameterGroup.FFN) if "down" in name}
    first, second, _ = down.values()
    with torch.no_grad():
        first.zero_()
        second[5] = 0.0
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    silent, partly = (
        sublayer.name for sublayer in layout.sublayers if sublayer.group is ParameterGroup.FFN and sublayer.block < 2
    )
    assert (baseline.facts.sublayers[silent].edge, baseline.facts.sublayers[silent].variance) == (0.0, 0.0)
    assert 0.0 < (baseline.facts.sublayers[partly].edge or 0.0) < 10.0
    rmt, _ = judged(baseline, measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline))
    assert rmt["stable"] is True
    null = null_edge_ratios(model, layout, WINDOWS[None, 3:], baseline)
    assert all(abs(ratio) < 1.0 for ratios in null.values() for ratio in ratios)


def test_a_feature_that_hardly_moves_makes_no_edge_of_rounding_noise() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    weight = model.get_parameter("model.layers.1.mlp.down_proj.weight")
    with torch.no_grad():
        weight[5] *= 1e-12
        baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
        weight[5] *= 1e6
    subject = measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline)
    assert judged(baseline, subject)[0]["families"]["ffn"]["ratio"] == pytest.approx(1.0, abs=0.01)


def test_the_contract_says_how_many_windows_count() -> None:
    model = small_model("qwen2")
    layout = analyze_layout(model)
    few = activation_contract(windows=3)
    measured = measure_activations(model, layout, WINDOWS, few)
    assert measured.facts == measure_activations(model, layout, WINDOWS[:3], few).facts
    assert measured.facts.sublayers != measure_activations(model, layout, WINDOWS, CONTRACT).facts.sublayers


def test_measuring_against_another_baseline_is_refused() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    with pytest.raises(EvaluationError, match="other calibration windows"):
        measure_activations(model, layout, WINDOWS[1:], CONTRACT, baseline=baseline)
    with pytest.raises(EvaluationError, match="another contract"):
        measure_activations(model, layout, WINDOWS, activation_contract(seed=1), baseline=baseline)
    with pytest.raises(EvaluationError, match="8 calibration windows are needed"):
        measure_activations(model, layout, WINDOWS[:7], CONTRACT)
    with pytest.raises(EvaluationError, match="token ids that it does not embed"):
        measure_activations(model, layout, WINDOWS + VOCABULARY, CONTRACT)


def test_hooks_are_gone_after_a_forward_pass_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("llama")
    layout = analyze_layout(model)

    def out_of_memory(*_args: object) -> None:
        raise torch.OutOfMemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(model.get_submodule("model.layers.1.mlp.down_proj"), "forward", out_of_memory)
        with pytest.raises(EvaluationError, match="measuring activations on 8 windows of 24 tokens failed"):
            measure_activations(model, layout, WINDOWS, CONTRACT)
        with pytest.raises(EvaluationError, match="memory of the device ran out"):
            scaled_losses(model, WINDOWS, {layout.sublayers[0].name: 1.01}, CONTRACT)
    assert hooks_of(model) == 0


def chosen_experts(model: PreTrainedModel, router: str, top_k: int) -> np.ndarray:
    """How often each expert is among the ``top_k`` largest logits of the router, one window at a time."""
    counts = np.zeros(EXPERTS, dtype=int)

    def count(module: nn.Module, args: tuple[torch.Tensor, ...], _output: object) -> None:
        weight, bias = module.get_parameter("weight"), dict(module.named_parameters()).get("bias")
        logits = torch.nn.functional.linear(args[0].reshape(-1, HIDDEN), weight, bias)
        counts[:] += np.bincount(logits.argsort(descending=True)[:, :top_k].flatten(), minlength=EXPERTS)

    handle = model.get_submodule(router).register_forward_hook(count)
    with torch.no_grad():
        for window in torch.from_numpy(WINDOWS[:8]):
            model(input_ids=window[None], use_cache=False)
    handle.remove()
    return counts


@pytest.mark.parametrize(("architecture", "top_k"), [("mixtral", 2), ("qwen2_moe", 2), ("gpt_oss", 4)])
def test_experts_are_counted_as_the_router_chooses_them(architecture: str, top_k: int) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    routers = measure_activations(model, layout, WINDOWS, CONTRACT).facts.routers
    assert len(routers) == LAYERS
    for name, router in routers.items():
        assert (router.experts, router.top_k, router.shape) == (EXPERTS, top_k, (EXPERTS, HIDDEN))
        assert router.usage == tuple(chosen_experts(model, name, top_k))
        assert sum(router.usage) == top_k * TOKENS


def test_a_router_that_returns_logits_only_is_counted_by_the_configured_top_k() -> None:
    config = AfmoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_hidden_layers=1,
        num_dense_layers=0,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=EXPERTS,
        num_experts_per_tok=2,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        nn.init.normal_(model.get_parameter("model.layers.0.mlp.router.gate.weight"))
    model.train(mode=False)
    layout = analyze_layout(model)
    (name, router), *others = measure_activations(model, layout, WINDOWS, CONTRACT).facts.routers.items()
    assert not others
    assert (router.experts, router.top_k) == (EXPERTS, 2)
    assert router.usage == tuple(chosen_experts(model, name, 2))


def test_a_random_router_moves_usage_and_another_top_k_breaks_identity() -> None:
    model = small_model("mixtral")
    layout = analyze_layout(model)
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.gate.weight").neg_()
    subject = measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline)
    moved = derive_moe(moe_evidence(baseline.facts, subject.facts))
    assert moved["identity_ok"] is True
    assert moved["usage_distance"]["model.layers.0.mlp.gate"] == 0.0
    assert moved["usage_distance"]["model.layers.1.mlp.gate"] > 0.1
    model.get_submodule("model.layers.2.mlp.gate").top_k = 1  # type: ignore[assignment]
    changed = measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline)
    assert derive_moe(moe_evidence(baseline.facts, changed.facts))["routers_differing"] == ["model.layers.2.mlp.gate"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_null_statistics_are_those_of_the_guard_between_draws(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    reference = measure_activations(model, layout, WINDOWS, CONTRACT)
    before = outputs_of(model, layout, WINDOWS[:8])
    draws = np.random.default_rng(1).integers(VOCABULARY, size=(7, 8, 24))
    found = null_edge_ratios(model, layout, draws, reference)
    for group in (ParameterGroup.ATTN, ParameterGroup.FFN):
        names = [sublayer.name for sublayer in layout.sublayers if sublayer.group is group]
        expected = []
        for draw in draws:
            outputs = outputs_of(model, layout, draw)
            expected.append(
                max(
                    math.log(edge_risk(outputs[name], before[name]) / edge_risk(before[name], before[name]))
                    for name in names
                )
            )
        assert found[group.value] == pytest.approx(expected, abs=4e-3)
    assert hooks_of(model) == 0


def test_null_statistics_do_not_depend_on_how_draws_are_batched() -> None:
    model = small_model("mixtral")
    layout = analyze_layout(model)
    reference = measure_activations(model, layout, WINDOWS, CONTRACT)
    draws = np.random.default_rng(1).integers(VOCABULARY, size=(7, 8, 24))  # 1024 tokens a batch: 5 + 2 draws
    together = null_edge_ratios(model, layout, draws, reference)
    singly = [null_edge_ratios(model, layout, draw[None], reference) for draw in draws]
    for group, ratios in together.items():
        assert ratios == pytest.approx([own[group][0] for own in singly], abs=1e-4)
    assert null_edge_ratios(model, layout, WINDOWS[None, :8], reference) == {"attn": (0.0,), "ffn": (0.0,)}


def test_null_draws_of_another_shape_or_model_are_refused() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    reference = measure_activations(model, layout, WINDOWS, CONTRACT)
    with pytest.raises(EvaluationError, match=r"shape \(draws, 8, seq_len\)"):
        null_edge_ratios(model, layout, WINDOWS[None, :7], reference)
    multiply_ffn(model, layout, math.nan)
    with pytest.raises(EvaluationError, match="not finite"):
        null_edge_ratios(model, layout, WINDOWS[None, :8], reference)


def multiplied(model: PreTrainedModel, layout: ModelLayout, scales: Mapping[str, float]) -> np.ndarray:
    """Losses of a model whose branches' last matrices are scaled in their weights."""
    with torch.no_grad():
        for name, scale in scales.items():
            module = model.get_submodule(name)
            last = "down_proj" if "mlp" in name else "o_proj"
            module.get_parameter(f"{last}.weight").mul_(scale)
    return window_losses(model, WINDOWS[:8], batch_size=8)


def test_scaled_losses_are_those_of_scaled_weights() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    plain = window_losses(model, WINDOWS[:8], batch_size=8)
    scales = {sublayer.name: 0.97 if sublayer.group is ParameterGroup.FFN else 1.03 for sublayer in layout.sublayers}
    found = scaled_losses(model, WINDOWS, scales | {"model.layers.9.mlp": 1.03}, CONTRACT)
    assert hooks_of(model) == 0
    assert np.array_equal(plain, window_losses(model, WINDOWS[:8], batch_size=8))
    assert np.abs(found - plain).max() > 1e-3
    assert found == pytest.approx(multiplied(model, layout, scales), abs=1e-5)


def test_the_proposed_scales_bring_the_losses_of_a_shrunken_model_back() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    baseline = measure_activations(model, layout, WINDOWS, CONTRACT)
    intact = window_losses(model, WINDOWS[:8], batch_size=8)
    shrunken = multiplied(model, layout, {sublayer.name: 0.98 for sublayer in layout.sublayers})
    subject = measure_activations(model, layout, WINDOWS, CONTRACT, baseline=baseline)
    scales = proposed_scales(variance_evidence(baseline.facts, subject.facts))
    assert len(scales) == 2 * LAYERS
    scaled = scaled_losses(model, WINDOWS, scales, CONTRACT)
    assert np.abs(scaled - intact).mean() < 0.3 * np.abs(shrunken - intact).mean()
    evidence = variance_evidence(baseline.facts, subject.facts, (shrunken.tolist(), scaled.tolist()))
    gate = derive_variance(evidence, POLICY.section("variance"))["predictive_gate"]
    assert gate["evaluated"] is True
    assert gate["mean_delta"] == pytest.approx(float(np.mean(scaled - shrunken)))


def test_half_precision_models_are_measured_in_float32() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    exact = measure_activations(model, layout, WINDOWS, CONTRACT).facts
    rough = measure_activations(small_model("llama", dtype=torch.bfloat16), layout, WINDOWS, CONTRACT).facts
    for name, sublayer in exact.sublayers.items():
        assert rough.sublayers[name].edge == pytest.approx(sublayer.edge, rel=0.05)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_outputs_that_are_projected_together_measure_what_they_measure_alone(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an accelerator, several branches share the launches of one projection."""
    model = small_model(architecture)
    layout = analyze_layout(model)
    alone = measure_activations(model, layout, WINDOWS, CONTRACT)
    monkeypatch.setitem(sublayers._QUEUED_ELEMENTS, "cpu", 3 * 8 * WINDOWS.shape[1] * HIDDEN)
    together = measure_activations(model, layout, WINDOWS, CONTRACT)
    for name, fact in alone.facts.sublayers.items():
        assert together.facts.sublayers[name].edge == pytest.approx(fact.edge, rel=1e-5)
    assert together.facts.routers == alone.facts.routers


def test_a_forward_pass_that_somebody_makes_anyway_can_be_watched() -> None:
    """More windows in the batch, and a trial of a few tokens before it, change nothing."""
    model = small_model("mixtral")
    layout = analyze_layout(model)
    expected = measure_activations(model, layout, WINDOWS, CONTRACT)
    watch = ActivationWatch(model, layout, WINDOWS, CONTRACT)
    with watch.watching():
        window_losses(model, WINDOWS, batch_size=len(WINDOWS))
    found = watch.result()
    assert not watch.missed
    for name, fact in expected.facts.sublayers.items():
        assert found.facts.sublayers[name].edge == pytest.approx(fact.edge, rel=1e-4)
    assert found.facts.routers == expected.facts.routers
    assert hooks_of(model) == 0


def test_batches_too_small_for_the_calibration_windows_are_told_from_missing_sublayers() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    too_small = ActivationWatch(model, layout, WINDOWS, CONTRACT)
    with too_small.watching():
        window_losses(model, WINDOWS, batch_size=too_small.windows - 1)
    nothing_called = ActivationWatch(model, layout, WINDOWS, CONTRACT)
    assert too_small.missed
    assert not nothing_called.missed


@pytest.mark.parametrize(("seq_len", "windows"), [(64, 8), (128, 8), (200, 6), (256, 4), (512, 4), (2048, 4)])
def test_long_windows_are_enough_in_smaller_numbers(seq_len: int, windows: int) -> None:
    assert calibration_windows(CONTRACT, seq_len) == windows


def test_a_named_tuple_that_is_scaled_stays_one() -> None:
    class Answer(NamedTuple):
        states: torch.Tensor
        weights: int

    hook = _scaling_hook(2.0)
    module, states = torch.nn.Identity(), torch.ones(2)
    assert torch.equal(hook(module, (), Answer(states, 3)).states, 2 * states)
    assert hook(module, (), [states, 3])[1] == 3
