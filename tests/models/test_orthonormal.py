"""Orthonormal bases as accelerators make them, compared with Householder's."""

from __future__ import annotations

import pytest
import torch

from pytest_proofpack.models.orthonormal import cholesky_qr


@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])
def test_two_rounds_span_what_householder_finds(decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(3, 400, 24, generator=generator) * torch.logspace(0, -decay, 24)
    basis = cholesky_qr(cholesky_qr(columns))
    assert torch.allclose(basis.mT @ basis, torch.eye(24).expand(3, -1, -1), atol=1e-5)
    expected = torch.linalg.qr(columns).Q
    assert torch.allclose(basis @ basis.mT, expected @ expected.mT, atol=1e-4)


def test_of_too_few_directions_and_of_none_everything_stays_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(2, 100, 2, generator=generator) @ torch.randn(2, 2, 8, generator=generator)
    columns[1] = 0
    basis = cholesky_qr(cholesky_qr(columns))
    assert basis.isfinite().all()
    assert not basis[1].any()
    span = torch.linalg.qr(columns[0, :, :2]).Q
    assert torch.allclose(basis[0] @ basis[0].mT @ span, span, atol=1e-4)
