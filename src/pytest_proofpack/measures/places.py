"""Find matrices that hold the baseline's very values in another place: by fingerprints of rows and columns, bit by bit.

Cosines and norms are not looked at, and nothing is estimated: either a matrix holds the same rows, or it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_proofpack.guards.places import COLUMNS, ROWS, TRANSPOSED
from pytest_proofpack.models.slabs import row_slabs

_SEED = 0


@dataclass(frozen=True)
class Fingerprints:
    """Of every row and column of a matrix, the sum of its values' bits (as float32), each times a random odd number.

    Shapes (rows,) and (columns,), int64 with overflow: equal for equal values, and only then but for one in 2^60.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Fingerprints:
        """Read a matrix once, in slabs."""
        width = matrix.shape[-1]
        height = matrix.numel() // width
        factors = _factors(max(height, width)).to(matrix.device)
        rows, columns, start = [], torch.zeros(width, dtype=torch.int64, device=matrix.device), 0
        for slab in row_slabs(matrix.detach()):
            bits = slab.float().reshape(-1, width).contiguous().view(torch.int32).long()
            rows.append((bits * factors[:width]).sum(dim=1))
            columns += (bits * factors[start : start + len(bits), None]).sum(dim=0)
            start += len(bits)
        return cls(torch.cat(rows).cpu(), columns.cpu())


def rearranged(before: Mapping[str, Fingerprints], after: Mapping[str, Fingerprints]) -> dict[str, str]:
    """Return, of the matrices that hold the baseline's values in another place, how they do.

    Args:
        before: fingerprints of the baseline's matrices by label.
        after: those of the subject's.

    Returns:
        By label ``rows`` or ``columns`` for the own ones in another order, ``transposed``, or the label of the matrix
        of the baseline whose values it holds.
    """
    found = {name: _how(name, own, before) for name, own in after.items()}
    return {name: how for name, how in found.items() if how is not None}


def _how(name: str, now: Fingerprints, before: Mapping[str, Fingerprints]) -> str | None:
    own = before[name]
    if torch.equal(now.rows, own.rows):
        return None
    others = (other for other, theirs in before.items() if other != name and torch.equal(now.rows, theirs.rows))
    if (other := next(others, None)) is not None:
        return other
    if torch.equal(now.rows.sort().values, own.rows.sort().values):
        return ROWS
    if torch.equal(now.columns.sort().values, own.columns.sort().values):
        return COLUMNS
    return TRANSPOSED if torch.equal(now.columns, own.rows) else None


def _factors(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(-(2**62), 2**62, (count,), generator=generator) * 2 + 1
