"""Estimates of the largest singular value against torch.linalg.svdvals."""

from __future__ import annotations

import pytest
import torch

from pytest_proofpack.measures.krylov import krylov_projection, largest_from_projection

SIZES = [(512, 256), (256, 256), (128, 512), (40, 24)]


def largest(matrices: torch.Tensor, *, iterations: int, seed: int) -> torch.Tensor:
    return largest_from_projection(krylov_projection(matrices, iterations, seed))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_pure_noise_the_hardest_spectrum_is_at_most_2_per_cent_low(rows: int, columns: int) -> None:
    matrices = noise(6, rows, columns)
    ratio = largest(matrices, iterations=16, seed=0) / torch.linalg.svdvals(matrices)[:, 0]
    assert float(ratio.min()) > 0.98
    assert float(ratio.max()) < 1.0 + 1e-5


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_correlated_features_are_exact_to_a_hundredth_of_a_per_cent(rows: int, columns: int) -> None:
    matrices = noise(6, rows, columns) + 0.4 * noise(6, rows, 1, seed=1) @ noise(6, 1, columns, seed=2)
    expected = torch.linalg.svdvals(matrices)[:, 0]
    assert largest(matrices, iterations=16, seed=0).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_low_rank_is_exact_although_the_space_is_exhausted(rank: int, scale: float) -> None:
    matrices = scale * noise(3, 80, rank) @ noise(3, rank, 60, seed=1)
    expected = torch.linalg.svdvals(matrices)[:, 0]
    assert largest(matrices, iterations=16, seed=0).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_fewer_columns_than_iterations() -> None:
    matrices = noise(2, 30, 5)
    expected = torch.linalg.svdvals(matrices)[:, 0]
    assert largest(matrices, iterations=16, seed=0).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_zero_is_zero_and_what_is_not_finite_is_nan_without_touching_its_neighbours() -> None:
    matrices = noise(4, 30, 20)
    clean = largest(matrices, iterations=16, seed=0)
    matrices[1] = 0.0
    matrices[2, 3, 4] = torch.nan
    matrices[3, 0, 0] = torch.inf
    found = largest(matrices, iterations=16, seed=0)
    assert found[0] == pytest.approx(float(clean[0]), rel=1e-6)
    assert found[1] == 0.0
    assert found[2:].isnan().all()


def test_depends_on_the_seed_only_and_leaves_the_global_state_alone() -> None:
    matrices = noise(2, 64, 48)
    state = torch.get_rng_state()
    first = largest(matrices, iterations=4, seed=3)
    assert torch.equal(first, largest(matrices, iterations=4, seed=3))
    assert not torch.equal(first, largest(matrices, iterations=4, seed=4))
    assert torch.equal(state, torch.get_rng_state())
