"""What a certificate keeps of the weights of baseline and subject, and the reader that trusts none of it.

Tables of columns, one entry per matrix or vector, so that a few hundred matrices take some tens of kilobytes.
A tensor known to equal the baseline's (``same``) carries the baseline's numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.tables import column_names, rows_of, table_of, with_columns

if TYPE_CHECKING:
    pass

SAME = "same"
MEASURED = "measured"
NOT_FINITE = "not_finite"
MISSING = "missing"

GROUP_WORDS: Mapping[str, str] = {
    "ffn": "feed-forward",
    "attn": "attention",
    "embed": "embedding",
    "router": "routers",
    "norm": "norms",
    "head": "output head",
    "other": "other parameters",
}
"""What the groups of parameters are called, for people."""
PARAMETER_GROUPS = tuple(GROUP_WORDS)

_MAX_TENSORS = 200_000
_MAX_NAME = 512
# Around the range of float32: quotients of such numbers, and their squares, stay within that of float64.
_SMALLEST, _LARGEST = 1e-46, 1e39
_ROUNDING = 1.001  # a singular value may exceed the Frobenius norm by the rounding of float32 arithmetic

Number = float | None


@dataclass(frozen=True)
class MatrixChange:
    """One matrix in baseline and subject.

    Attributes:
        name: label of the matrix: its parameter, or ``parameter[part]``.
        group: group of its parameter.
        state: ``same`` (equal to the baseline), ``measured``, ``not_finite`` or ``missing``. The subject's numbers
            are there only if measured; the baseline's are None only if they are not finite.
        sigma_base, frobenius_base: the baseline's largest singular value and Frobenius norm.
        sigma, frobenius: the subject's.
        row_min, row_max: smallest and largest quotient, subject over baseline, of the norm of a row.
        column_min, column_max: the same of columns.
    """

    name: str
    group: str
    state: str
    sigma_base: Number = None
    frobenius_base: Number = None
    sigma: Number = None
    frobenius: Number = None
    row_min: Number = None
    row_max: Number = None
    column_min: Number = None
    column_max: Number = None

    @property
    def parameter(self) -> str:
        """The parameter that holds the matrix."""
        return self.name.partition("[")[0]

    @property
    def base_is_finite(self) -> bool:
        """Whether the baseline's has numbers that can be compared."""
        return self.sigma_base is not None

    @property
    def current_sigma(self) -> Number:
        """The subject's largest singular value, whether it was measured or is the baseline's; None if unknown."""
        return self.sigma_base if self.state == SAME else self.sigma


@dataclass(frozen=True)
class VectorChange:
    """One vector (gains of a norm, biases) in baseline and subject.

    Attributes:
        name, group, state: as for matrices; ``gain`` says whether the vector multiplies (the gains of a norm).
        norm_base, norm: Euclidean norms.
        change: largest absolute change, relative to the baseline's largest magnitude.
        ratio_min, ratio_max: smallest and largest quotient of magnitudes, of gains only.
    """

    name: str
    group: str
    state: str
    gain: bool
    norm_base: Number = None
    norm: Number = None
    change: Number = None
    ratio_min: Number = None
    ratio_max: Number = None

    @property
    def base_is_finite(self) -> bool:
        """Whether the baseline's has numbers that can be compared."""
        return self.norm_base is not None


@dataclass(frozen=True)
class SpectralEvidence:
    """The evidence of the spectral guard.

    Attributes:
        contract: how the subject was measured, see :func:`pytest_proofpack.guards.spectral.measurement_contract`.
        baseline_contract_hash: hash of the contract by which the baseline was measured.
        matrices, vectors: one entry for each of the baseline's.
        added: parameters that only the subject has.
        reshaped: parameters of another shape, compared in the rows and columns that both have.
    """

    contract: JsonObject
    baseline_contract_hash: str
    matrices: tuple[MatrixChange, ...]
    vectors: tuple[VectorChange, ...]
    added: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the evidence half of a certificate's ``spectral`` block."""
        return {
            "measurement_contract": self.contract,
            "baseline_measurement_contract_hash": self.baseline_contract_hash,
            "matrices": table_of(MatrixChange, self.matrices),
            "vectors": table_of(VectorChange, self.vectors),
            "added": list(self.added),
            "reshaped": list(self.reshaped),
        }


def read_evidence(block: object) -> SpectralEvidence:
    """Read what :meth:`SpectralEvidence.to_json` wrote; other keys are ignored.

    Raises:
        FormatError: malformed, too large, or contradicting itself.
    """
    if not isinstance(block, Mapping):
        raise FormatError("spectral: expected an object")
    contract, baseline_hash = block.get("measurement_contract"), block.get("baseline_measurement_contract_hash")
    if not isinstance(contract, dict) or not isinstance(baseline_hash, str):
        raise FormatError("spectral: measurement_contract must be an object, its baseline's hash a string")
    matrices = tuple(_matrix(row) for row in _rows(MatrixChange, block.get("matrices"), "matrices"))
    vectors = tuple(_vector(row) for row in _rows(VectorChange, block.get("vectors"), "vectors"))
    names = [*(matrix.name for matrix in matrices), *(vector.name for vector in vectors)]
    if len(set(names)) != len(names):
        raise FormatError("spectral: a tensor is listed twice")
    added, reshaped = (_names(block.get(key), key) for key in ("added", "reshaped"))
    return SpectralEvidence(contract, baseline_hash, matrices, vectors, added, reshaped)


def column_digests(block: Mapping[str, Any], sha256: Callable[[object], str] = sha256_of) -> JsonObject:
    """Return the first 16 hexadecimal digits of the SHA-256 of every column: which one was altered shows here."""
    return {
        f"{table}.{column}": sha256(values)[:16]
        for table in ("matrices", "vectors")
        for column, values in block[table].items()
    }


def _rows(kind: type[MatrixChange] | type[VectorChange], table: object, where: str) -> Iterator[dict[str, Any]]:
    names, place = column_names(kind), f"spectral.{where}"
    for values in rows_of(with_columns(table, place, names), place, names, _MAX_TENSORS):
        row = dict(zip(names, values, strict=True))
        _check_labels(row, where)
        yield row


def _check_labels(row: Mapping[str, Any], where: str) -> None:
    if not _is_name(row["name"]):
        raise FormatError(f"spectral.{where}: a name must be a string of 1 to {_MAX_NAME} characters")
    if row["family"] not in PARAMETER_GROUPS or row["state"] not in (SAME, MEASURED, NOT_FINITE, MISSING):
        raise FormatError(f"spectral.{where}: {row['name']} has an unknown family or state")


def _matrix(row: dict[str, Any]) -> MatrixChange:
    base = [_number(row, key) for key in ("sigma_base", "frobenius_base")]
    keys = ("sigma", "frobenius", "row_min", "row_max", "column_min", "column_max")
    numbers = [_number(row, key) for key in keys]
    _check_presence(row, base, numbers)
    change = MatrixChange(row["name"], row["family"], row["state"], *base, *numbers)
    for smaller, larger in (
        (change.sigma_base, change.frobenius_base),
        (change.sigma, change.frobenius),
        (change.row_min, change.row_max),
        (change.column_min, change.column_max),
    ):
        if smaller is not None and larger is not None and smaller > larger * _ROUNDING:
            raise FormatError(f"spectral.matrices: {change.name} contradicts itself: {smaller} above {larger}")
    return change


def _vector(row: dict[str, Any]) -> VectorChange:
    if not isinstance(row["gain"], bool):
        raise FormatError(f"spectral.vectors: {row['name']}: gain must be true or false")
    keys = ("norm", "change", "ratio_min", "ratio_max")
    base, numbers = [_number(row, "norm_base")], [_number(row, key) for key in keys]
    if not row["gain"] and numbers[2:] != [None, None]:
        raise FormatError(f"spectral.vectors: {row['name']} is not a gain, but has quotients")
    _check_presence(row, base, numbers if row["gain"] else numbers[:2])
    low, high = numbers[2:]
    if low is not None and high is not None and low > high:
        raise FormatError(f"spectral.vectors: {row['name']} contradicts itself: {low} above {high}")
    return VectorChange(row["name"], row["family"], row["state"], row["gain"], *base, *numbers)


def _check_presence(row: Mapping[str, Any], base: Sequence[Number], numbers: Sequence[Number]) -> None:
    """Demand the baseline's numbers where they are compared, and the subject's exactly if they were measured.

    A baseline that is not finite, for example a mask of -inf, has no numbers, and a subject may be equal to it.
    """
    unknown = [number is None for number in base]
    if any(unknown) if row["state"] == MEASURED else row["state"] == SAME and any(unknown) and not all(unknown):
        raise FormatError(f"spectral: {row['name']} is {row['state']}, but lacks numbers of the baseline")
    absent = [number is None for number in numbers]
    if any(absent) if row["state"] == MEASURED else not all(absent):
        raise FormatError(f"spectral: {row['name']} is {row['state']}, which its numbers contradict")


def _number(row: Mapping[str, Any], key: str) -> Number:
    value = row[key]
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value == 0 or _SMALLEST <= value <= _LARGEST):
        raise FormatError(f"spectral: {row['name']}: {key} must be 0, from {_SMALLEST} to {_LARGEST}, or null")
    return float(value)


def _names(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MAX_TENSORS or not all(_is_name(name) for name in value):
        raise FormatError(f"spectral.{key}: expected a list of names")
    return tuple(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME
