"""Values in another place are found bit by bit; values that changed by a bit are none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pytest_proofpack.measures.places import Fingerprints, rearranged

GENERATOR = torch.Generator().manual_seed(0)
OWN, OTHER, WIDE = (torch.randn(size, generator=GENERATOR) for size in ((32, 32), (32, 32), (16, 48)))
BEFORE = {"own": OWN, "other": OTHER, "wide": WIDE}


def found(**after: Tensor) -> dict[str, str]:
    before = {name: Fingerprints.of(tensor) for name, tensor in BEFORE.items()}
    return rearranged(before, {name: Fingerprints.of(tensor) for name, tensor in after.items()})


@pytest.mark.parametrize(
    ("after", "how"),
    [
        (OWN.roll(1, 0), "rows"),
        (OWN[[1, 0, *range(2, 32)]], "rows"),
        (OWN[:, torch.randperm(32, generator=GENERATOR)], "columns"),
        (OWN.T, "transposed"),
        (OTHER, "other"),
    ],
)
def test_a_matrix_that_was_put_elsewhere(after: Tensor, how: str) -> None:
    assert found(own=after.contiguous()) == {"own": how}


def test_two_that_changed_places() -> None:
    assert found(own=OTHER, other=OWN) == {"own": "other", "other": "own"}


def test_a_narrow_matrix_is_told_by_its_rows_and_columns_too() -> None:
    assert found(wide=WIDE.roll(3, 1)) == {"wide": "columns"}


@pytest.mark.parametrize(
    "after",
    [OWN.clone(), -OWN, OWN * 2, OWN.roll(1, 0).bfloat16(), OWN.roll(1, 0).roll(1, 1), OWN.roll(1).reshape(32, 32)],
)
def test_whatever_else_is_not(after: Tensor) -> None:
    assert found(own=after) == {}


def test_a_row_that_was_copied_is_not_in_another_place() -> None:
    copied = OWN.clone()
    copied[3] = copied[7]
    assert found(own=copied) == {}


def test_another_dtype_with_the_same_values_has_the_same_fingerprints() -> None:
    rounded = OWN.bfloat16()
    assert torch.equal(Fingerprints.of(rounded).rows, Fingerprints.of(rounded.float()).rows)
