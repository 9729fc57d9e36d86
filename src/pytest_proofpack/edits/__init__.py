"""Edits and error injections, in memory: applied in place, undone bit for bit. One module each, with its record.

To read the records needs no torch: what computes is imported when it is applied. :mod:`pytest_proofpack.edits.apply`
applies them.
"""

from __future__ import annotations

from pytest_proofpack.edits.faults import (
    EXTREME_QUANT,
    INF_INJECTION,
    NAN_INJECTION,
    NORM_COLLAPSE,
    RANK_COLLAPSE,
    SCALE_EXPLOSION,
)
from pytest_proofpack.edits.float8 import FP8_QUANT
from pytest_proofpack.edits.lowrank import LOWRANK_SVD
from pytest_proofpack.edits.noop import NO_EDIT
from pytest_proofpack.edits.prune import MAGNITUDE_PRUNE
from pytest_proofpack.edits.quantize import QUANT_RTN
from pytest_proofpack.edits.structural_faults import MISSING_TENSORS, SHAPE_MISMATCH, WEIGHT_TYING_BREAK
from pytest_proofpack.plan.edit_kinds import Edit, Fault

BUILTIN_EDITS: tuple[Edit, ...] = (NO_EDIT, QUANT_RTN, FP8_QUANT, MAGNITUDE_PRUNE, LOWRANK_SVD)
"""The package's own edits; :data:`pytest_proofpack.plan.edit_kinds.EDITS` has those of extensions too."""
BUILTIN_FAULTS: tuple[Fault, ...] = (
    NAN_INJECTION,
    INF_INJECTION,
    SHAPE_MISMATCH,
    MISSING_TENSORS,
    WEIGHT_TYING_BREAK,
    EXTREME_QUANT,
    SCALE_EXPLOSION,
    RANK_COLLAPSE,
    NORM_COLLAPSE,
)
"""The package's own error injections, likewise."""
