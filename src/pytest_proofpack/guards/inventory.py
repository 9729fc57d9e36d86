"""The structure's own list of what there is to be judged in a baseline: every parameter, and every watched sublayer.

A certificate carries it under ``invariants``, and :mod:`pytest_proofpack.guards.coverage` holds against it what each
guard judged: a guard that looked at half of a model vouches for half of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.spectral_evidence import PARAMETER_GROUPS
from pytest_proofpack.guards.tables import column_names, rows_of, table_of, with_columns

_WATCHED = ("ffn", "attn")
_MAX_ENTRIES = 400_000
_MAX_NAME = 512
_LARGEST_COUNT = 2**31
_OF_BLOCKS = ("ffn", "attn", "router", "other")


@dataclass(frozen=True)
class ListedTensor:
    """One parameter of the baseline that has values.

    Attributes:
        name: tied parameters stand once, under their first name.
        group: its parameter group.
        block: of a matrix in a block, the block's index; else None.
        matrices: in how many matrices it falls; 0 for a vector.
    """

    name: str
    group: str
    block: int | None = None
    matrices: int = 0


@dataclass(frozen=True)
class ListedSublayer:
    """One attention or feed-forward sublayer whose output is added to the residual stream."""

    name: str
    group: str
    block: int


@dataclass(frozen=True)
class Inventory:
    """What there is in a baseline.

    Attributes:
        tensors: every parameter that has values.
        sublayers: every sublayer that the layout knows.
        warnings: what the layout could not tell, in sentences; it stands among the violations.
    """

    tensors: tuple[ListedTensor, ...] = ()
    sublayers: tuple[ListedSublayer, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the evidence: two tables of columns, ``tensors`` and ``sublayers``."""
        return {
            "tensors": table_of(ListedTensor, self.tensors),
            "sublayers": table_of(ListedSublayer, self.sublayers),
        }


def read_inventory(block: Mapping[str, Any]) -> Inventory:
    """Read what :meth:`Inventory.to_json` wrote into the ``invariants`` block of a certificate.

    Raises:
        FormatError: malformed, or more tensors than the summary of the baseline counts.
    """
    tensors = tuple(_tensor(*row) for row in _rows(block, "tensors", ListedTensor))
    sublayers = tuple(_sublayer(*row) for row in _rows(block, "sublayers", ListedSublayer))
    for listed in (tensors, sublayers):
        if len({own.name for own in listed}) != len(listed):
            raise FormatError("invariants: a tensor or a sublayer is listed twice")
    if len(tensors) > (count := block["baseline"]["tensors"]):
        raise FormatError(f"invariants.tensors: {len(tensors)} are listed, the baseline has {count}")
    return Inventory(tensors, sublayers)


def _rows(block: Mapping[str, Any], name: str, kind: type[ListedTensor | ListedSublayer]) -> Iterator[tuple[Any, ...]]:
    names, where = column_names(kind), f"invariants.{name}"
    return rows_of(with_columns(block.get(name), where, names), where, names, _MAX_ENTRIES)


def _tensor(name: object, group: object, block: object, matrices: object) -> ListedTensor:
    if not _is_name(name) or group not in PARAMETER_GROUPS:
        raise FormatError(f"invariants.tensors: {name!r:.80} is no name, or has an unknown family")
    if not _is_count(matrices) or not (block is None or (_is_count(block) and matrices and group in _OF_BLOCKS)):
        raise FormatError(
            f"invariants.tensors: {name:.80}: matrices must be a count, block that of a matrix in a block"
        )
    return ListedTensor(name, str(group), block, matrices)


def _sublayer(name: object, group: object, block: object) -> ListedSublayer:
    if not _is_name(name) or group not in _WATCHED or not _is_count(block):
        raise FormatError(f"invariants.sublayers: {name!r:.80}: expected a name, a family of ffn or attn, and a block")
    return ListedSublayer(name, str(group), block)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _LARGEST_COUNT
