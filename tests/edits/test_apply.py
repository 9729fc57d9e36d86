"""Edits and error injections on whole models: they act, they report, and they leave no trace."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from pytest_proofpack.edits import approximation
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models import slabs
from pytest_proofpack.models.layout import ParameterGroup, analyze_layout, input_embedding, output_head
from pytest_proofpack.plan.edit_kinds import FAULTS
from pytest_proofpack.plan.records import EditSpec
from tests.support.fake_devices import spread, two_devices
from tests.support.faults import injected
from tests.support.small_models import EXPERTS, LAYERS, VOCABULARY, edit_spec, fingerprint, logits_of, small_model

MODELS = ("mistral", "gpt2", "qwen2", "mixtral")
SPECS = ("quant_rtn:4:32:ffn", "fp8_quant:e4m3fn:all", "magnitude_prune:0.5:all", "lowrank_svd:4:ffn@layer=1")


@pytest.fixture(params=MODELS)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("text", SPECS)
def test_an_edit_acts_and_is_undone_bit_for_bit(architecture: str, text: str) -> None:
    model = small_model(architecture, dtype=torch.bfloat16)
    layout = analyze_layout(model)
    before, logits = fingerprint(model), logits_of(model)
    values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    storage = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    with edited(model, layout, edit_spec(text), seed=1) as report:
        assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == storage
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, values[name])}
        assert changed == set(report.parameters)
        assert not torch.equal(logits_of(model), logits)
    assert fingerprint(model) == before
    assert torch.equal(logits_of(model), logits)
    assert json.loads(json.dumps(report.details, allow_nan=False)) == report.details


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_acts_runs_and_is_undone(architecture: str, fault: str) -> None:
    model = small_model(architecture, dtype=torch.bfloat16)
    layout = analyze_layout(model)
    before, logits = fingerprint(model), logits_of(model)
    with injected(model, layout, fault, seed=1) as report:
        assert fingerprint(model) != before
        assert report.parameters
        damaged = logits_of(model)
        generated = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, min_new_tokens=2, do_sample=False)  # type: ignore[operator]
        assert generated.shape == (1, 5)
    is_untying = fault == "weight_tying_break" and layout.head_tied
    assert torch.equal(damaged, logits) is is_untying
    assert fingerprint(model) == before
    assert torch.equal(logits_of(model), logits)
    assert json.loads(json.dumps(report.details, allow_nan=False)) == report.details


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral", "phi3", "gpt_neox", "gpt_oss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_working_by_slabs_changes_no_bit(
    architecture: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(architecture, dtype=dtype)
    layout = analyze_layout(model)

    def results() -> list[object]:
        found: list[object] = []
        for text in ("quant_rtn:4:32:all", "quant_rtn:2:7:ffn", "fp8_quant:e4m3fn:all", "magnitude_prune:0.37:all"):
            with edited(model, layout, edit_spec(text), seed=1) as report:
                found += [report, _values(model)]
        for fault in ("extreme_quant", "scale_explosion"):
            with injected(model, layout, fault, seed=1) as report:
                found += [report, _values(model)]
        return found

    whole = results()
    for elements in (200, 1):
        monkeypatch.setattr(slabs, "CPU_SLAB_ELEMENTS", elements)
        assert results() == whole


def _values(model: PreTrainedModel) -> dict[str, bytes]:
    """Return the bits of all parameters."""
    return {name: bytes(own.detach().flatten().view(torch.uint8).numpy()) for name, own in model.named_parameters()}


class _InterruptedError(Exception):
    """What a measurement might raise."""


@pytest.mark.parametrize("fault", FAULTS)
def test_an_exception_in_the_body_undoes_a_fault_too(fault: str) -> None:
    model = small_model("qwen2")
    before = fingerprint(model)
    with pytest.raises(_InterruptedError), injected(model, analyze_layout(model), fault, seed=1):
        raise _InterruptedError
    assert fingerprint(model) == before


def test_an_exception_in_the_middle_of_an_edit_undoes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("gpt2")
    layout = analyze_layout(model)
    before = fingerprint(model)
    real = torch.linalg.svd
    remaining = iter(range(3))

    def failing_svd(*args: torch.Tensor, **kwargs: bool) -> object:
        if next(remaining, None) is None:
            raise _InterruptedError
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", failing_svd)
    with pytest.raises(_InterruptedError), edited(model, layout, edit_spec("lowrank_svd:4:all"), seed=0):
        pytest.fail("the edit should not have come to an end")
    assert fingerprint(model) == before


def test_noop_touches_nothing() -> None:
    model = small_model("llama")
    before = fingerprint(model)
    with edited(model, analyze_layout(model), edit_spec("noop"), seed=0) as report:
        assert fingerprint(model) == before
    assert (report.label, report.parameters, report.details) == ("noop", (), {})


def test_the_report_names_what_the_scope_selects() -> None:
    model = small_model("llama")
    with edited(model, analyze_layout(model), edit_spec("quant_rtn:4:32:ffn@layer=1"), seed=0) as report:
        pass
    assert list(report.parameters) == [f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]


def test_bad_edits_and_faults_are_refused_before_anything_changes() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    before = fingerprint(model)
    with pytest.raises(ConfigurationError, match="bits"), edited(
        model, layout, EditSpec("quant_rtn", "ffn", {"bits": 16, "group_size": 32}), seed=0
    ):  # fmt: skip
        pass
    with pytest.raises(ConfigurationError, match="bit_rot"), injected(model, layout, "bit_rot", seed=0):
        pass
    with (
        pytest.raises(ConfigurationError, match="layer"),
        edited(model, layout, edit_spec("lowrank_svd:2:ffn@layer=9"), seed=0),
    ):
        pass
    assert fingerprint(model) == before


def test_prune_reports_the_zeros_that_the_model_then_holds() -> None:
    model = small_model("gpt2", dtype=torch.bfloat16)
    layout = analyze_layout(model)
    with edited(model, layout, edit_spec("magnitude_prune:0.12:ffn"), seed=0) as report:
        weights = [model.get_parameter(name) for name in report.parameters]
        assert report.details["zeros"] == sum(int((weight == 0).sum()) for weight in weights)
        assert report.details["elements"] == sum(weight.numel() for weight in weights)
    assert report.details["zeros"] == sum(round(0.12 * weight.numel()) for weight in weights)


def test_conv1d_groups_run_along_inputs() -> None:
    model = small_model("gpt2")
    with edited(model, analyze_layout(model), edit_spec("quant_rtn:2:32:ffn"), seed=0):
        weight = model.get_parameter("transformer.h.0.mlp.c_fc.weight")
        # 32 inputs are one group, so every output has at most the four levels of two bits.
        assert max(len(torch.unique(column)) for column in weight.t()) <= 4


def test_fused_parts_are_pruned_one_by_one() -> None:
    model = small_model("mixtral")
    with edited(model, analyze_layout(model), edit_spec("magnitude_prune:0.5:ffn"), seed=0):
        gate_up = model.get_parameter("model.layers.0.mlp.experts.gate_up_proj")
        share = (gate_up == 0).float().unflatten(1, (2, -1)).mean(dim=(2, 3))  # type: ignore[no-untyped-call]
        assert torch.equal(share, torch.full((EXPERTS, 2), 0.5))
        assert bool((model.get_parameter("model.layers.0.mlp.gate.weight") != 0).all())


def test_lowrank_reports_energy_and_reaches_its_rank() -> None:
    model = small_model("llama")
    with edited(model, analyze_layout(model), edit_spec("lowrank_svd:4:all"), seed=0) as report:
        ranks = [torch.linalg.matrix_rank(model.get_parameter(name), rtol=1e-4) for name in report.parameters]
    assert {int(rank) for rank in ranks} == {4}
    assert 0 < report.details["energy_min"] <= report.details["energy_mean"] < 1


def test_the_sketch_of_a_large_matrix_follows_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximation, "EXACT_UP_TO", 4)
    monkeypatch.setattr(approximation, "OVERSAMPLING", 1)
    monkeypatch.setattr(approximation, "POWER_ITERATIONS", 0)
    model = small_model("llama")
    layout = analyze_layout(model)
    energies = []
    for seed in (0, 0, 1):
        with edited(model, layout, edit_spec("lowrank_svd:4:all"), seed=seed) as report:
            assert report.details["randomized"] == report.details["matrices"]
            energies.append(report.details["energy_mean"])
    assert energies[0] == energies[1] != energies[2]


def test_float8_counts_what_it_clips_and_flushes() -> None:
    model = small_model("llama")
    with torch.no_grad():
        weight = model.get_parameter("model.layers.1.mlp.up_proj.weight")
        weight.fill_(1.0)
        weight[0, :3] = 500.0
        weight[1, :2] = 1e-7
    with edited(model, analyze_layout(model), edit_spec("fp8_quant:e4m3fn:ffn@layer=1"), seed=0) as report:
        assert float(weight.detach().max()) == 448.0
    others = [model.get_parameter(f"model.layers.1.mlp.{name}_proj.weight") for name in ("gate", "down")]
    tiny = sum(int((other.abs() <= 2.0**-10).sum()) for other in others)
    assert report.details == {"matrices": 3, "clipped": 3, "flushed": 2 + tiny}


@pytest.mark.parametrize(("fault", "test"), [("nan_injection", math.isnan), ("inf_injection", math.isinf)])
def test_one_element_is_hit(fault: str, test: Callable[[float], bool]) -> None:
    model = small_model("mistral")
    layout = analyze_layout(model)
    places = set()
    for seed in range(4):
        with injected(model, layout, fault, seed=seed) as report:
            (name,) = report.parameters
            weight = model.get_parameter(name)
            (place,) = (~torch.isfinite(weight)).nonzero().tolist()
            assert test(float(weight.detach()[*place]))
            assert layout.groups[name] in {ParameterGroup.ATTN, ParameterGroup.FFN}
            places.add((name, *place))
    assert len(places) == 4
    with (
        injected(model, layout, fault, seed=0) as first,
        injected(small_model("mistral"), layout, fault, seed=0) as second,
    ):
        assert first == second


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral", "opt"])
def test_the_vocabulary_grows_by_eight_everywhere(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    logits = logits_of(model)
    with injected(model, layout, "shape_mismatch", seed=0):
        embedding, head = input_embedding(model), output_head(model)
        assert head is not None
        assert embedding.weight.shape[0] == head.weight.shape[0] == model.config.vocab_size == VOCABULARY + 8
        assert (embedding.weight is head.weight) is layout.head_tied
        assert getattr(model, "vocab_size", VOCABULARY + 8) == VOCABULARY + 8
        longer = logits_of(model)
        tokens = torch.arange(6).unsqueeze(0)
        assert bool(torch.isfinite(model.forward(input_ids=tokens, labels=tokens).loss))
    torch.testing.assert_close(longer[:, :VOCABULARY], logits)
    torch.testing.assert_close(longer[:, VOCABULARY:], logits.mean(dim=1, keepdim=True).expand(-1, 8))


def test_new_rows_are_the_mean_however_it_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    weight = input_embedding(model).weight.detach().clone()
    for elements in (2**20, 100):
        monkeypatch.setattr(slabs, "CPU_SLAB_ELEMENTS", elements)
        with injected(model, layout, "shape_mismatch", seed=0):
            enlarged = input_embedding(model).weight.detach()
            assert torch.equal(enlarged[:VOCABULARY], weight)
            torch.testing.assert_close(enlarged[VOCABULARY:], weight.mean(dim=0).expand(8, -1))


@pytest.mark.parametrize("architecture", ["mistral", "gpt2", "gpt_oss"])
def test_the_last_block_goes(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    with injected(model, layout, "missing_tensors", seed=0) as report:
        assert len(model.get_submodule(layout.blocks)) == model.config.num_hidden_layers == LAYERS - 1  # type: ignore[arg-type]
        assert len(getattr(model.config, "layer_types", None) or range(LAYERS - 1)) == LAYERS - 1
        assert set(layout.groups) - {name for name, _ in model.named_parameters()} == set(report.parameters)
        logits_of(model)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_tying_is_turned_around_in_storage_and_configuration(architecture: str) -> None:
    model = small_model(architecture)
    layout = analyze_layout(model)
    embedding, head = input_embedding(model), output_head(model)
    assert head is not None
    with injected(model, layout, "weight_tying_break", seed=0):
        assert (embedding.weight.data_ptr() == head.weight.data_ptr()) is not layout.head_tied
        assert model.config.tie_word_embeddings is not layout.head_tied
    assert (embedding.weight.data_ptr() == head.weight.data_ptr()) is layout.head_tied


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("fault", ["shape_mismatch", "missing_tensors", "weight_tying_break"])
def test_a_changed_structure_still_computes_over_two_devices(architecture: str, fault: str) -> None:
    """The head lies on another device than the embeddings, where the weights are not tied."""
    model = small_model(architecture)
    layout = analyze_layout(model)
    with two_devices() as devices:
        spread(model, *devices)
        tokens = torch.zeros((1, 8), dtype=torch.long, device=devices[0])
        for _ in range(2):  # and is put back
            with injected(model, layout, fault, seed=0):
                assert model(input_ids=tokens, use_cache=False).logits.device == devices[0]
        assert model(input_ids=tokens, use_cache=False).logits.shape == (1, 8, VOCABULARY)


def test_extreme_quantization_leaves_few_values() -> None:
    model = small_model("llama")
    with injected(model, analyze_layout(model), "extreme_quant", seed=0):
        matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        assert max(len(torch.unique(matrix)) for matrix in matrices) <= 4


def test_scale_explosion_hits_one_feed_forward_matrix() -> None:
    model = small_model("llama")
    layout = analyze_layout(model)
    norms = {name: float(parameter.detach().norm()) for name, parameter in model.named_parameters()}
    with injected(model, layout, "scale_explosion", seed=0) as report:
        ratios = {name: float(parameter.detach().norm()) / norms[name] for name, parameter in model.named_parameters()}
    (hit,) = report.parameters
    assert layout.groups[hit] is ParameterGroup.FFN
    assert ratios.pop(hit) == pytest.approx(100)
    assert set(ratios.values()) == {1.0}


def test_rank_collapse_keeps_the_norm_of_eight_attention_matrices() -> None:
    model = small_model("llama")
    norms = {name: float(parameter.detach().norm()) for name, parameter in model.named_parameters()}
    with injected(model, analyze_layout(model), "rank_collapse", seed=0) as report:
        assert len(report.parameters) == 8
        for name in report.parameters:
            weight = model.get_parameter(name)
            assert int(torch.linalg.matrix_rank(weight, rtol=1e-4)) == 1
            assert float(weight.detach().norm()) == pytest.approx(norms[name], rel=1e-5)


def test_norm_collapse_zeroes_at_most_32_attention_matrices() -> None:
    model = small_model("llama", num_hidden_layers=9)
    layout = analyze_layout(model)
    with injected(model, layout, "norm_collapse", seed=0) as report:
        zeroed = [name for name, parameter in model.named_parameters() if not bool(parameter.any())]
    assert len(zeroed) == 32
    assert set(zeroed) == set(report.parameters) <= set(layout.names(ParameterGroup.ATTN))


def test_a_model_of_one_block_cannot_lose_it() -> None:
    model = small_model("llama", num_hidden_layers=1)
    layout = analyze_layout(model)
    with (
        pytest.raises(ConfigurationError, match="two or more layers"),
        injected(model, layout, "missing_tensors", seed=0),
    ):
        pass
    assert sys.exc_info() == (None, None, None)
