"""What honest tools leave holds the label of its edit, however it is stored; what was changed elsewise does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import compact_json, parse_json
from pytest_proofpack.edits.float8 import cast_float8
from pytest_proofpack.edits.rounding import quantize_rtn
from pytest_proofpack.guards.guard import Case, EvaluatedWindows
from pytest_proofpack.guards.inventory import Inventory
from pytest_proofpack.guards.label import derive_label, label_evidence
from pytest_proofpack.measures.changes import measure_changes, reference_of_model
from pytest_proofpack.measures.label import measure_label
from pytest_proofpack.measures.structure import measure_inventory
from pytest_proofpack.models.layout import ModelLayout, analyze_layout
from tests.support.small_models import small_model

RULES = resolve_policy("balanced").section("label")
NO_WINDOWS = EvaluatedWindows([], [], [], [])
Edit = Callable[[Tensor], Tensor]
TYPES = (torch.float32, torch.bfloat16)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02


@cache
def original(architecture: str, dtype: torch.dtype) -> tuple[PreTrainedModel, ModelLayout, Inventory]:
    """Return a small model with matrices of normal numbers, which nobody changes."""
    model = small_model(architecture, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    torch.nn.Module.to(model, dtype)
    with torch.no_grad():
        for seed, own in enumerate(model.parameters()):
            if own.ndim > 1:
                own.copy_(normal(*own.shape, seed=seed))
    layout = analyze_layout(model)
    return model, layout, measure_inventory(model, layout)


def findings(
    label: str,
    edit: Edit,
    *,
    dtype: torch.dtype = torch.float32,
    stored: torch.dtype | None = None,
    architecture: str = "llama",
    only: str = ".mlp.",
) -> list[str]:
    """Label a small model whose matrices were edited, and say what is found.

    Args:
        label: what the edit is called.
        edit: changes a matrix in float32, rows are outputs.
        dtype: of the baseline.
        stored: of the subject; the baseline's unless told.
        architecture: of the model.
        only: parameters whose names hold this are edited, all of them without it.
    """
    baseline, layout, inventory = original(architecture, dtype)
    subject = copy.deepcopy(baseline)
    with torch.no_grad():
        for name, own in subject.named_parameters():
            if only in name and own.ndim > 1:
                own.copy_(edit(own.float()).to(stored or dtype))
        torch.nn.Module.to(subject, stored or dtype)
    shapes = {name: own.shape for name, own in baseline.named_parameters()}
    reference = reference_of_model(baseline)
    changes = measure_changes(subject, layout, shapes, reference, source="memory", loading={})
    block = label_evidence("given", measure_label(label, subject, layout, changes, reference))
    case = Case(
        NO_WINDOWS,
        NO_WINDOWS,
        inventory=inventory,
        edit={"type": label, "source": "byoe", "subject": "acme/x"},
        compared=changes.to_json()["tensors"],
    )
    derived: dict[str, Any] = derive_label(parse_json(compact_json(block).encode(), "block"), RULES, case)
    assert derived["holds"] is not bool(derived["findings"])
    found: list[str] = derived["findings"]
    return found


def asymmetric(bits: int, group: int) -> Edit:
    """Round with a zero point per group."""

    def edit(matrix: Tensor) -> Tensor:
        values = matrix.reshape(matrix.shape[0], -1, group)
        low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
        scale = (high - low) / (2**bits - 1)
        zero = (-low / scale).round()
        codes: Tensor = ((values / scale).round() + zero).clamp(0, 2**bits - 1)
        dense: Tensor = ((codes - zero) * scale).reshape(matrix.shape)
        return dense

    return edit


def rounded(bits: int, group: int) -> Edit:
    return lambda matrix: quantize_rtn(matrix, bits, group)


def along_rows(matrix: Tensor) -> Tensor:
    return quantize_rtn(matrix.t().contiguous(), 4, 32).t()


def one_scale(matrix: Tensor) -> Tensor:
    scale = matrix.abs().max() / 127
    return (matrix / scale).round() * scale


def float8(dtype: torch.dtype, *, per: str = "none") -> Edit:
    def edit(matrix: Tensor) -> Tensor:
        limit = torch.finfo(dtype).max
        scale = {"none": torch.ones(()), "tensor": matrix.abs().max() / limit}.get(per)
        if scale is None:
            scale = matrix.abs().amax(1, keepdim=True) / limit
        return cast_float8(matrix / scale, dtype) * scale

    return edit


def pruned(matrix: Tensor) -> Tensor:
    return torch.where(matrix.abs() > 0.01, matrix, 0.0)


def low_rank(matrix: Tensor) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    product: Tensor = left[:, :8] * values[:8] @ right[:8]
    return product


def noisy(edit: Edit, size: float) -> Edit:
    return lambda matrix: edit(matrix) + normal(*matrix.shape, seed=9) * size


def scattered(matrix: Tensor) -> Tensor:
    """Round, and then let 31 % of the values be others of the same grid."""
    right = quantize_rtn(matrix, 4, 32)
    moved = torch.rand(matrix.shape, generator=torch.Generator().manual_seed(1)) < 0.31
    return torch.where(moved, -right, right)


HONEST: dict[str, tuple[str, Edit]] = {
    **{f"{bits} bits, groups of {group}": ("quant_rtn", rounded(bits, group))
       for bits, group in ((2, 32), (3, 32), (4, 32), (4, 64), (8, 32), (8, 64), (4, 16), (6, 16), (4, 8))},
    "4 bits, zero points": ("quant_rtn", asymmetric(4, 32)),
    "8 bits, zero points": ("quant_rtn", asymmetric(8, 32)),
    "8 bits, one scale": ("quant_rtn", one_scale),
    "4 bits, along the other dimension": ("quant_rtn", along_rows),
    **{f"{str(kind)[12:]} per {per}": ("fp8_quant", float8(kind, per=per))
       for kind in (torch.float8_e4m3fn, torch.float8_e5m2) for per in ("none", "tensor", "row")},
    "pruned": ("magnitude_prune", pruned),
    "low rank": ("lowrank_svd", low_rank),
}  # fmt: skip
FALSE: dict[str, tuple[str, Edit, str]] = {
    "nothing rounded": ("quant_rtn", noisy(lambda matrix: matrix, 0.05), "of the values moved by more than a step"),
    "rounded, then tuned": ("quant_rtn", noisy(rounded(4, 32), 0.01), "of the values moved by more than a step"),
    "8 bits, then tuned": ("quant_rtn", noisy(rounded(8, 32), 0.01), "of the groups have more than 256 levels"),
    "other rows": ("quant_rtn", lambda matrix: quantize_rtn(matrix, 4, 32).flip(0), "moved by more than a step"),
    "pruned": ("quant_rtn", pruned, "of the groups have more than 256 levels"),
    "cast, then tuned": ("fp8_quant", noisy(float8(torch.float8_e4m3fn), 0.01), "are on no grid of an 8-bit float"),
    "8 bits": ("fp8_quant", rounded(8, 32), "are on no grid of an 8-bit float"),
    "other values of the grid": ("fp8_quant", lambda m: cast_float8(m, torch.float8_e4m3fn).flip(0), "by more than"),
    "pruned and recovered": ("magnitude_prune", noisy(pruned, 0.01), "of the changed values are neither kept nor zero"),
    "one value in a thousand": (
        "magnitude_prune",
        lambda matrix: pruned(matrix).index_put_((torch.arange(16), torch.arange(16)), torch.tensor(0.5)),
        "of the changed values are neither kept nor zero",
    ),
    "low rank, then tuned": ("lowrank_svd", noisy(low_rank, 0.2), "of the full rank is left"),
    "rounded": ("lowrank_svd", rounded(4, 32), "of the full rank is left"),
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_label_holds(name: str, dtype: torch.dtype) -> None:
    label, edit = HONEST[name]
    assert findings(label, edit, dtype=dtype) == []


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("label", ["quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd"])
def test_what_a_tool_saves_in_another_dtype_is_rounded_and_not_changed(label: str, stored: torch.dtype) -> None:
    """Norms and attention, which no edit touched, differ from the baseline's then too."""
    edits = dict(reversed(HONEST.values()))
    assert findings(label, edits[label], stored=stored) == []


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", FALSE)
def test_a_false_label_is_found(name: str, dtype: torch.dtype) -> None:
    label, edit, said = FALSE[name]
    found = findings(label, edit, dtype=dtype)
    assert any(finding.startswith(f"labelled {label}, but ") and said in finding for finding in found), found


def test_the_share_that_moved_is_told() -> None:
    (found,) = findings("quant_rtn", scattered)
    share = float(found.removeprefix("labelled quant_rtn, but ").partition(" %")[0])
    assert 20 < share < 31  # small values turn by less than a step
    assert " % of the values moved by more than a step (in model.layers.0.mlp.gate_proj.weight, " in found


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral", "phi3"])
@pytest.mark.parametrize("label", ["quant_rtn", "lowrank_svd"])
def test_matrices_that_are_stored_transposed_or_fused(label: str, architecture: str) -> None:
    """Columns of a Conv1D, experts in one parameter, gate and up in one: each is looked at as a matrix of its own."""
    only = "mlp" if architecture != "mixtral" else "experts"
    edit: Edit = {"quant_rtn": one_scale, "lowrank_svd": lambda matrix: 0.9 * matrix}[label]
    found = findings(label, edit, architecture=architecture, only=only)
    assert (found == []) is (label == "quant_rtn")


def test_one_matrix_of_many_is_enough() -> None:
    calls = []

    def edit(matrix: Tensor) -> Tensor:
        calls.append(matrix)
        return noisy(rounded(4, 32), 0.05)(matrix) if len(calls) == 4 else quantize_rtn(matrix, 4, 32)

    found = findings("quant_rtn", edit)
    assert found
    assert all(finding.endswith("(in model.layers.1.mlp.gate_proj.weight)") for finding in found)


@pytest.mark.parametrize("label", ["quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd"])
class TestNothingChanged:
    def test_equal_values_are_no_edit(self, label: str) -> None:
        assert findings(label, lambda matrix: matrix) == [f"labelled {label}, but no value differs from the baseline's"]

    def test_nor_are_values_in_another_dtype(self, label: str) -> None:
        (found,) = findings(label, lambda matrix: matrix, stored=torch.bfloat16)
        assert found.endswith("no value differs from the baseline's but by the type that it is stored in")
