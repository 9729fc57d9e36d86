"""Where weights point, measured on small models: against numbers made the plain way, and on exchanged rows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.guards.direction import has_turned
from pytest_proofpack.guards.direction_evidence import MatrixDirection, direction_evidence
from pytest_proofpack.measures.changes import reference_of_model
from pytest_proofpack.measures.direction import WeightDirections, measure_direction
from pytest_proofpack.models.layout import ModelLayout, analyze_layout
from pytest_proofpack.models.matrices import every_matrix
from tests.support.small_models import small_model

RULES = resolve_policy("balanced").section("direction")
QUERY = "model.layers.1.self_attn.q_proj.weight"
GATE = "model.layers.0.mlp.gate_proj.weight"
UP = "model.layers.0.mlp.up_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
IN_TEXT = (0, 6, 7, 127)
TEXTS = {row: f"token {row}" for row in range(128)}


@pytest.fixture(scope="module")
def baseline() -> PreTrainedModel:
    return small_model("llama")


@pytest.fixture(scope="module")
def layout(baseline: PreTrainedModel) -> ModelLayout:
    return analyze_layout(baseline)


def measured(
    baseline: PreTrainedModel, layout: ModelLayout, name: str, change: Callable[[Tensor], Tensor]
) -> WeightDirections:
    subject = copy.deepcopy(baseline)
    with torch.no_grad():
        parameter = subject.get_parameter(name)
        parameter.copy_(change(parameter.clone()))
    return compared(baseline, subject, layout, name)


def compared(baseline: PreTrainedModel, subject: PreTrainedModel, layout: ModelLayout, *names: str) -> WeightDirections:
    reference = reference_of_model(baseline)
    return measure_direction(subject, layout, reference, names, rules=RULES, tokens={EMBEDDING: TEXTS}, in_text=IN_TEXT)


def only(found: WeightDirections) -> MatrixDirection:
    (matrix,) = found.matrices
    return matrix


def test_the_cosine_is_the_normalized_inner_product(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    noise = torch.randn(baseline.get_parameter(QUERY).shape, generator=torch.Generator().manual_seed(0))
    found = only(measured(baseline, layout, QUERY, lambda weight: weight + weight.std() * noise))
    before = baseline.get_parameter(QUERY).detach().double()
    after = (before.float() + before.float().std() * noise).double()
    assert found.cosine == pytest.approx(float((before * after).sum() / (before.norm() * after.norm())), rel=1e-5)
    assert found.retained == pytest.approx(float((before * after).sum() / after.square().sum()), rel=1e-5)
    assert (found.name, found.group, found.like) == (QUERY, "attn", None)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight * 4,
        lambda weight: weight * torch.linspace(0.01, 30, weight.shape[1]),
        lambda weight: weight * torch.linspace(0.01, 30, len(weight))[:, None],
        lambda weight: torch.where(weight.abs() > weight.abs().median(), weight, 0),
        lambda weight: (weight / weight.abs().max() * 7).round() * weight.abs().max() / 7,
        lambda weight: torch.linalg.svd(weight).U[:, :4] @ torch.linalg.svd(weight).U[:, :4].T @ weight,
        torch.zeros_like,
    ],
)
def test_scaling_pruning_rounding_and_low_rank_turn_nothing(
    baseline: PreTrainedModel, layout: ModelLayout, change: Callable[[Tensor], Tensor]
) -> None:
    assert not has_turned(only(measured(baseline, layout, QUERY, change)), RULES)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.T,
        lambda weight: -weight,
        lambda weight: weight.roll(8, 0),
        lambda weight: weight.roll(8, 1),
        lambda weight: torch.cat((weight[8:16], weight[:8], weight[16:])),
        lambda weight: torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * weight.std(),
    ],
)
def test_a_matrix_turns(baseline: PreTrainedModel, layout: ModelLayout, change: Callable[[Tensor], Tensor]) -> None:
    assert has_turned(only(measured(baseline, layout, QUERY, change)), RULES)


def test_matrices_that_changed_places_are_recognized(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    subject = copy.deepcopy(baseline)
    with torch.no_grad():
        subject.get_parameter(GATE).copy_(baseline.get_parameter(UP))
        subject.get_parameter(UP).copy_(baseline.get_parameter(GATE))
    found = {matrix.name: matrix.like for matrix in compared(baseline, subject, layout, GATE, UP).matrices}
    assert found == {GATE: UP, UP: GATE}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exchanged_rows_are_found_with_their_tokens(
    baseline: PreTrainedModel, layout: ModelLayout, dtype: torch.dtype
) -> None:
    rows = torch.tensor([3, 90, 17])
    stored = copy.deepcopy(baseline)
    stored.to(dtype=dtype)  # type: ignore[call-arg]
    (table,) = measured(stored, layout, EMBEDDING, lambda table: table.index_copy(0, rows, table[rows.roll(1)])).tables
    assert (table.rows, table.changed, table.exchanged) == (128, 3, 3)
    assert {(row.row, row.like) for row in table.worst} == {(3, 17), (90, 3), (17, 90)}
    assert (table.worst[0].token, table.worst[0].like_token) == ("token 3", "token 17")


def test_nearly_parallel_rows_are_told_apart(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    stored = copy.deepcopy(baseline)
    with torch.no_grad():  # as the rows of rare tokens are in a trained head
        table = stored.get_parameter(EMBEDDING)
        table.add_(5 * table.norm(dim=1).mean() * torch.ones(table.shape[1]) / table.shape[1] ** 0.5)
    (found,) = measured(stored, layout, EMBEDDING, lambda table: table[[1, 0, *range(2, 128)]]).tables
    assert (found.lost, found.exchanged) == (0, 2)


def test_lost_rows_of_tokens_in_the_text_are_counted(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    def trained(table: Tensor) -> Tensor:
        fresh = torch.randn(3, table.shape[1], generator=torch.Generator().manual_seed(0))
        return table.index_copy(0, torch.tensor([4, 6, 127]), fresh)

    assert measured(baseline, layout, EMBEDDING, trained).lost_in_text == {EMBEDDING: 2}
    assert measured(baseline, layout, EMBEDDING, lambda table: table * 0.7).lost_in_text == {EMBEDDING: 0}


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.index_copy(0, torch.tensor([5, 6]), torch.randn(2, table.shape[1])),
        lambda table: table.index_copy(0, torch.tensor([5, 6]), table[:2]),
        lambda table: table @ torch.linalg.qr(torch.randn(table.shape[1], table.shape[1])).Q,
        lambda table: (table / table.abs().max() * 7).round() * table.abs().max() / 7,
    ],
    ids=["trained", "copied", "rotated", "rounded"],
)
def test_no_row_is_exchanged_by(
    baseline: PreTrainedModel, layout: ModelLayout, change: Callable[[Tensor], Tensor]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (table,) = measured(baseline, layout, EMBEDDING, change).tables
    assert (table.exchanged, table.reversed) == (0, 0)


def test_what_has_no_counterpart_is_named_and_nan_is_no_number(baseline: PreTrainedModel, layout: ModelLayout) -> None:
    subject = copy.deepcopy(baseline)
    with torch.no_grad():
        subject.get_parameter(GATE)[0, 0] = torch.nan
        subject.get_parameter(EMBEDDING)[0, 0] = torch.inf
    subject.get_submodule("model.layers.1.self_attn.q_proj").weight = torch.nn.Parameter(torch.zeros(2, 2))
    found = compared(baseline, subject, layout, GATE, EMBEDDING, QUERY, "unheard.weight")
    assert found.not_compared == (QUERY,)
    assert {matrix.cosine for matrix in found.matrices} == {None}
    assert direction_evidence(found.matrices, found.tables, [], {})["tables"][EMBEDDING]["change"]["max"] is None


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral", "gpt_neox", "phi3"])
def test_fused_parameters_are_compared_part_by_part(architecture: str) -> None:
    baseline = small_model(architecture)
    layout = analyze_layout(baseline)
    subject = copy.deepcopy(baseline)
    views = [view for view in every_matrix(subject, layout) if view.part]
    with torch.no_grad():
        views[0].tensor.mul_(-1)
    found = {matrix.name: matrix for matrix in compared(baseline, subject, layout, views[0].parameter).matrices}
    assert set(found) == {view.label for view in views if view.parameter == views[0].parameter}
    assert found[views[0].label].cosine == pytest.approx(-1.0)
    assert all(own.cosine == pytest.approx(1.0) for label, own in found.items() if label != views[0].label)


def test_values_in_another_place_are_told_even_where_no_row_lost_its_direction(
    baseline: PreTrainedModel, layout: ModelLayout
) -> None:
    alike = copy.deepcopy(baseline)
    with torch.no_grad():
        table = alike.get_parameter(EMBEDDING)
        table.copy_(table[0] + 0.01 * table)  # rows of tokens that training hardly saw are nearly parallel
    found = measured(alike, layout, EMBEDDING, lambda own: own[[1, 0, *range(2, len(own))]])
    assert (only(found).rows_lost, found.rearranged) == (0.0, {EMBEDDING: "rows"})
    assert measured(baseline, layout, GATE, lambda own: own.roll(1, 0)).rearranged == {GATE: "rows"}
    assert measured(baseline, layout, QUERY, lambda own: own * 0.9).rearranged == {}
