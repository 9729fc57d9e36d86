"""What the four edits make of small matrices, by hand and against independent references."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pytest_proofpack.edits.approximation import EXACT_UP_TO, best_of_rank, random_sketch
from pytest_proofpack.edits.float8 import cast_float8
from pytest_proofpack.edits.order_statistics import (
    prune_smallest,
    select_by_counting,
    select_by_halving,
    select_by_partition,
    smallest,
)
from pytest_proofpack.edits.rounding import quantize_rtn, quantize_with_one_scale
from pytest_proofpack.models.layout import ParameterGroup
from pytest_proofpack.models.matrices import MatrixView
from pytest_proofpack.models.slabs import count_true, row_slabs


def _random(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_quantization_by_hand() -> None:
    # 3 bits: scale = max / 3. Groups of two columns; the last column is a group of its own.
    matrix = torch.tensor([[3.0, -1.4, 0.3, 0.14, 7.0], [-6.0, 2.9, 0.0, 0.0, -9.0]])
    expected = torch.tensor([[3.0, -1.0, 0.3, 0.1, 7.0], [-6.0, 2.0, 0.0, 0.0, -9.0]])
    torch.testing.assert_close(quantize_rtn(matrix, bits=3, group_size=2), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group_size", [1, 5, 16, 37, 100])
def test_quantization_against_an_element_wise_reference(bits: int, group_size: int) -> None:
    matrix = _random(6, 37)
    largest = 2 ** (bits - 1) - 1
    expected = torch.empty_like(matrix)
    for row in range(6):
        for start in range(0, 37, group_size):
            group = matrix[row, start : start + group_size]
            scale = float(group.abs().max()) / largest
            levels = [max(-largest - 1, min(largest, round(float(value) / scale))) for value in group]
            expected[row, start : start + group_size] = torch.tensor(levels) * scale
    torch.testing.assert_close(quantize_rtn(matrix, bits, group_size), expected)


def test_two_bits_with_one_scale() -> None:
    matrix = torch.tensor([[10.0, 6.0], [4.0, -6.0]])
    quantize_with_one_scale(MatrixView("w", "", ParameterGroup.FFN, matrix), 2)
    torch.testing.assert_close(matrix, torch.tensor([[10.0, 10.0], [0.0, -10.0]]))


def test_float8_saturates_and_flushes() -> None:
    matrix = torch.tensor([[0.3, 1.0, 500.0], [-1e6, 1e-5, 0.0]])
    # e4m3fn has three bits of mantissa, largest value 448, smallest 2^-9; e5m2 two, 57344 and 2^-16.
    expected = torch.tensor([[0.3125, 1.0, 448.0], [-448.0, 0.0, 0.0]])
    assert torch.equal(cast_float8(matrix, torch.float8_e4m3fn), expected)
    expected = torch.tensor([[0.3125, 1.0, 512.0], [-57344.0, 2.0**-16, 0.0]])
    assert torch.equal(cast_float8(matrix, torch.float8_e5m2), expected)


def pruned(matrix: torch.Tensor, sparsity: float) -> torch.Tensor:
    copy = matrix.clone()
    prune_smallest(copy, sparsity)
    return copy


def test_pruning_takes_the_smallest_magnitudes() -> None:
    matrix = torch.tensor([[5.0, -1.0, 2.0], [-4.0, 0.5, 3.0]])
    assert pruned(matrix, 0.5).tolist() == [[5.0, 0.0, 0.0], [-4.0, 0.0, 3.0]]


@pytest.mark.parametrize(("sparsity", "zeros"), [(0.12, 12), (0.29, 29), (0.5, 50), (0.999, 100), (0.001, 0)])
def test_pruning_counts_exactly_even_among_ties(sparsity: float, zeros: int) -> None:
    ties = torch.full((10, 10), 0.25)
    ties[0, 0] = 9.0
    assert int((pruned(ties, sparsity) == 0).sum()) == zeros
    coarse = _random(10, 10).mul(2).round().add(0.25)
    assert int((pruned(coarse, sparsity) == 0).sum()) == zeros


def test_a_kept_weight_is_never_smaller_than_a_pruned_one() -> None:
    matrix = _random(40, 30)
    left = pruned(matrix, 0.3)
    gone = left == 0
    assert float(matrix[~gone].abs().min()) >= float(matrix[gone].abs().max())
    assert torch.equal(left[~gone], matrix[~gone])


def approximated(matrix: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return best_of_rank(matrix, rank, random_sketch(matrix.shape[1], rank, seed, matrix.device))


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_low_rank_is_the_best_there_is(shape: tuple[int, int]) -> None:
    matrix = _random(*shape)
    approximation, energy = approximated(matrix, 5)
    values = torch.linalg.svdvals(matrix.double())
    # Eckart and Young: the squared error is the sum of the squares of the other singular values.
    error = float((matrix - approximation).double().square().sum())
    assert math.isclose(error, float(values[5:].square().sum()), rel_tol=1e-4)
    assert math.isclose(energy, float(values[:5].square().sum() / values.square().sum()), rel_tol=1e-5)
    assert int(torch.linalg.matrix_rank(approximation, rtol=1e-4)) == 5


@pytest.mark.parametrize("rank", [20, 32])
def test_a_rank_beyond_the_matrix_changes_nothing(rank: int) -> None:
    matrix = _random(20, 30)
    approximation, energy = approximated(matrix, rank)
    assert torch.equal(approximation, matrix)
    assert energy == 1.0


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_the_randomized_method_is_close_to_the_exact_one_whatever_the_size_of_values(size: float) -> None:
    matrix = _random(EXACT_UP_TO + 60, EXACT_UP_TO + 200)
    plain, energy = approximated(matrix, 16)
    scaled, same = approximated(matrix * size, 16)
    assert math.isclose(energy, same, rel_tol=1e-4)
    torch.testing.assert_close(scaled / size, plain, rtol=0, atol=1e-2)


def test_the_randomized_method_is_close_to_the_exact_one_on_a_flat_spectrum() -> None:
    matrix = _random(EXACT_UP_TO + 60, EXACT_UP_TO + 200)
    approximation, energy = approximated(matrix, 16, seed=3)
    values = torch.linalg.svdvals(matrix)
    exact = float(values[:16].square().sum() / values.square().sum())
    assert 0.99 * exact < energy <= exact * (1 + 1e-5)
    error = float((matrix - approximation).square().sum() / matrix.square().sum())
    assert math.isclose(error, 1 - energy, abs_tol=1e-4)
    again, _ = approximated(matrix, 16, seed=3)
    assert torch.equal(again, approximation)
    other, _ = approximated(matrix, 16, seed=4)
    assert not torch.equal(other, approximation)


def test_pruning_and_casting_in_the_stored_dtype_give_what_float32_gives() -> None:
    stored = torch.randn(64, 96, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    stored[0, 0] = 1e6  # beyond both formats
    assert torch.equal(pruned(stored, 0.37).float(), pruned(stored.float(), 0.37))
    for target in (torch.float8_e4m3fn, torch.float8_e5m2):
        assert torch.equal(cast_float8(stored, target).float(), cast_float8(stored.float(), target))


@pytest.mark.parametrize(("dtype", "integer"), [(torch.float32, torch.int32), (torch.bfloat16, torch.int16)])
@pytest.mark.parametrize("count", [1, 150, 151, 500, 2998, 2999, 3000])
def test_the_bits_of_magnitudes_find_the_threshold_that_sorting_finds(
    dtype: torch.dtype, integer: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU counts 16 bits and halves 32, a CPU partitions. Half of these values have equals; one is inf, one NaN."""
    values = torch.randn(3000, generator=torch.Generator().manual_seed(2)).abs().mul(8).round().div(8).to(dtype)
    values[7], values[8] = torch.inf, torch.nan
    bits = values.view(integer)
    expected = bits.sort().values[count - 1]
    monkeypatch.setattr(torch, "histc", integer_histogram)
    wide = (select_by_halving, select_by_partition)
    for select in wide if integer is torch.int32 else (*wide, select_by_counting):
        threshold, below = select(bits, count)
        assert (threshold, threshold.dtype) == (expected, integer)
        assert below == (bits < expected).sum()


def integer_histogram(values: torch.Tensor, *, bins: int, min: int, max: int) -> torch.Tensor:  # noqa: A002
    """torch.histc of integers as a GPU does it; on a CPU it knows floats only."""
    inside = values[(values >= min) & (values <= max)] - min
    return torch.bincount((inside * bins // (max - min)).clamp(max=bins - 1), minlength=bins)


def test_pruning_goes_row_by_row_in_any_layout() -> None:
    matrix = _random(30, 50).mul(2).round()
    assert torch.equal(pruned(matrix.t(), 0.4), pruned(matrix.t().contiguous(), 0.4))


@pytest.mark.parametrize("share", [0.001, 0.3, 1.0])
@pytest.mark.parametrize("length", [1, 64, 65, 1000, 4096])
@pytest.mark.parametrize("threshold", [0, 5, 32767])
def test_the_smallest_are_those_that_numbering_finds(length: int, share: float, threshold: int) -> None:
    equal = torch.rand(length, generator=torch.Generator().manual_seed(4)) < share
    others = torch.randint(threshold - 3, threshold + 4, (length,), generator=torch.Generator().manual_seed(5))
    values = torch.where(equal, threshold, others.clamp(0, 32767)).short()
    for number in (0, 1, 7, 64, int((values == threshold).sum()), length + 5):
        tied = values == threshold
        expected = (values < threshold) | (tied & (tied.cumsum(0) <= number))
        found = smallest(values, torch.tensor([threshold], dtype=torch.int16), torch.tensor([number]))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(0,), (63,), (64, 1), (65,), (7, 130)])
def test_what_is_true_is_counted_in_any_layout(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.9
    for own in (mask, mask.t() if mask.ndim == 2 else mask, torch.ones_like(mask)):
        assert count_true(own) == own.sum()


def test_slabs_are_bounded_views_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_proofpack.models.slabs.CPU_SLAB_ELEMENTS", 25)
    matrix = torch.arange(70.0).reshape(7, 10)
    slabs = row_slabs(matrix)
    assert [len(slab) for slab in slabs] == [2, 2, 2, 1]
    assert torch.equal(torch.cat(slabs), matrix)
    assert {slab.untyped_storage().data_ptr() for slab in slabs} == {matrix.untyped_storage().data_ptr()}
    monkeypatch.setattr("pytest_proofpack.models.slabs.CPU_SLAB_ELEMENTS", 1)
    assert len(row_slabs(matrix)) == 7
