"""What the guards rmt, variance and moe share: activations at the sublayers of two models, as facts and as evidence.

The facts of one model are made by :mod:`pytest_proofpack.measures.activations`. The evidence pairs those of baseline
and subject in JSON; :func:`paired_branches` reads it back, trusting nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.contract import contract_hash

CALIBRATION_WINDOWS = 8
CALIBRATION_TOKENS = 1024
FEWEST_CALIBRATION_WINDOWS = 4
LANCZOS_ITERATIONS = 16
_SUBLAYER_KEYS = frozenset({"family", "block", "base", "cur", "state_base", "state"})


class State(StrEnum):
    """What became of a sublayer in one model."""

    MEASURED = "measured"
    MISSING = "missing"
    RESHAPED = "reshaped"
    NON_FINITE = "non_finite"


@dataclass(frozen=True)
class SublayerActivation:
    """The output of one attention or feed-forward sublayer on the calibration windows.

    Attributes:
        group: ``ffn`` or ``attn``.
        block: index of the block.
        state: whether the two numbers below could be measured; where not, they are None.
        edge: sigma_max / (sqrt(tokens) + sqrt(features)) of the output, whitened by the baseline's statistics.
        variance: mean over features of the variance over tokens.
    """

    group: str
    block: int
    state: State
    edge: float | None = None
    variance: float | None = None


@dataclass(frozen=True)
class RouterUsage:
    """One router of a mixture of experts, and where it sent the tokens of the calibration windows.

    Attributes:
        experts: how many experts the layer has.
        top_k: experts per token; None if the router does not tell.
        shape: of the router's matrix.
        usage: how often each expert was chosen, shape (experts,).
    """

    experts: int
    top_k: int | None
    shape: tuple[int, ...]
    usage: tuple[int, ...]


@dataclass(frozen=True)
class ActivationFacts:
    """Everything that the three guards compare, of one model.

    Attributes:
        contract: how it was measured, see :func:`activation_contract`.
        windows_sha256: digest of the token ids of the calibration windows.
        sublayers: by the path of the sublayer's module, in the order of the model.
        routers: by the path of the router's module; empty in a dense model.
    """

    contract: JsonObject
    windows_sha256: str
    sublayers: Mapping[str, SublayerActivation]
    routers: Mapping[str, RouterUsage]


def activation_contract(
    *, windows: int = CALIBRATION_WINDOWS, iterations: int = LANCZOS_ITERATIONS, seed: int = 0
) -> JsonObject:
    """Return the measurement contract: everything besides model and text that an edge risk depends on."""
    return {
        "estimator": {
            "type": "lanczos",
            "iterations": iterations,
            "init": "normal",
            "seed": seed,
            "dtype": "float32",
        },
        "activation_sampling": {
            "windows": {
                "count": windows,
                "enough_tokens": CALIBRATION_TOKENS,
                "fewest": min(windows, FEWEST_CALIBRATION_WINDOWS),
                "selection": "first_of_preview",
            }
        },
        "tap": "branch_output",
        "edge": "sigma_max / (sqrt(tokens) + sqrt(features))",
        "whitening": {"by": "baseline", "mean": "feature", "deviation": "feature", "deviation_floor": 1e-4},
    }


def calibration_windows(contract: Mapping[str, Any], seq_len: int) -> int:
    """Return how many windows of ``seq_len`` tokens are measured under a contract.

    ``count``, or as many as hold ``enough_tokens``, but not fewer than ``fewest``: long windows hold more to measure
    than short ones.
    """
    rules = contract["activation_sampling"]["windows"]
    enough = -(-int(rules["enough_tokens"]) // seq_len)
    return max(int(rules["fewest"]), min(int(rules["count"]), enough))


def sublayer_evidence(baseline: ActivationFacts, subject: ActivationFacts, quantity: str) -> JsonObject:
    """Pair one quantity of every sublayer: ``{path: {family, block, base, cur, state_base, state}}``.

    Args:
        baseline: names the sublayers that there have to be.
        subject: one that it lacks is recorded as missing.
        quantity: ``"edge"`` or ``"variance"``.
    """
    rows = {}
    for name, ours in baseline.sublayers.items():
        theirs = subject.sublayers.get(name, SublayerActivation(ours.group, ours.block, State.MISSING))
        rows[name] = {
            "family": ours.group,
            "block": ours.block,
            "base": getattr(ours, quantity),
            "cur": getattr(theirs, quantity),
            "state_base": ours.state.value,
            "state": theirs.state.value,
        }
    return rows


@dataclass(frozen=True)
class PairedSublayer:
    """One quantity of one sublayer in both models.

    Attributes:
        name: path of the sublayer's module.
        group: ``ffn`` or ``attn``.
        base, cur: the quantity in the baseline and in the subject; None where it could not be measured.
        problem: why the two can't be compared (``missing``, ``reshaped``, ``non_finite``), else None.
    """

    name: str
    group: str
    base: float | None
    cur: float | None
    problem: str | None

    @property
    def log_ratio(self) -> float:
        """ln(cur / base): minus infinity for a silenced sublayer, plus infinity where there is nothing to compare."""
        if self.base is None or self.cur is None:
            return math.inf
        if self.cur == self.base:
            return 0.0
        if self.base == 0.0:
            return math.inf
        # Not ln(cur / base): the quotient of two finite numbers need not be finite.
        return math.log(self.cur) - math.log(self.base) if self.cur else -math.inf

    @property
    def ratio(self) -> float | None:
        """Quotient cur / base, None where that is no finite number."""
        if self.base is None or self.cur is None:
            return None
        return 1.0 if self.cur == self.base else finite_or_none(self.cur / self.base if self.base else math.inf)


def paired_sublayers(block: Mapping[str, Any], guard: str) -> list[PairedSublayer]:
    """Read the sublayers that :func:`sublayer_evidence` wrote under ``block["branches"]``.

    Raises:
        FormatError: not what that function writes: a negative number, a state that contradicts its value, ...
    """
    sublayers = mapping(block.get("branches"), f"{guard}.branches")
    # By name: the order of an object's keys does not survive writing and reading.
    return [_paired_sublayer(name, row, f"{guard}.branches.{name}") for name, row in sorted(sublayers.items())]


def _paired_sublayer(name: str, row: object, where: str) -> PairedSublayer:
    row = exact_mapping(row, where, _SUBLAYER_KEYS)
    if type(row["block"]) is not int or row["block"] < 0:
        raise FormatError(f"{where}: block must be a number from 0, found {row['block']!r:.40}")
    group = row["family"]
    if group not in ("ffn", "attn"):
        raise FormatError(f"{where}: family must be ffn or attn, found {group!r}")
    base, before = _value_and_problem(row.get("base"), row.get("state_base"), where)
    cur, after = _value_and_problem(row.get("cur"), row.get("state"), where)
    return PairedSublayer(name, group, base, cur, after or before)


def _value_and_problem(value: object, state: object, where: str) -> tuple[float | None, str | None]:
    if state not in list(State):
        raise FormatError(f"{where}: unknown state {state!r}")
    if (state == State.MEASURED) is (value is None):
        raise FormatError(f"{where}: the state is {state!r}, the value {value!r}")
    return (None, str(state)) if value is None else (non_negative(value, where), None)


def sublayer_baselines(block: Mapping[str, Any]) -> JsonObject:
    """Return the baseline's quantity of every sublayer by name, from a block that has been judged."""
    return {name: [row["base"], row["state_base"]] for name, row in block["branches"].items()}


def contract_facts(block: Mapping[str, Any], guard: str) -> JsonObject:
    """Derive what a guard says about its measurement contract: the hash, and whether the baseline's is the same.

    Raises:
        FormatError: ``measurement_contract`` or ``baseline_measurement_contract_hash`` is absent.
    """
    contract = mapping(block.get("measurement_contract"), f"{guard}.measurement_contract")
    digest, baseline = contract_hash(contract), block.get("baseline_measurement_contract_hash")
    if not isinstance(baseline, str):
        raise FormatError(f"{guard}.baseline_measurement_contract_hash: expected text, found {baseline!r}")
    return {"measurement_contract_hash": digest, "measurement_contract_match": digest == baseline}


def mapping(value: object, where: str) -> Mapping[str, Any]:
    """Return ``value``, which must be a JSON object.

    Raises:
        FormatError: it is not.
    """
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def exact_mapping(value: object, where: str, keys: frozenset[str]) -> Mapping[str, Any]:
    """Return ``value``, which must be a JSON object with just these keys: nothing else in it would be looked at.

    Raises:
        FormatError: it is not.
    """
    value = mapping(value, where)
    if value.keys() != keys:
        raise FormatError(f"{where}: expected the keys {', '.join(sorted(keys))}, found {_shown(value)}")
    return value


def _shown(value: Mapping[str, Any]) -> str:
    return ", ".join(sorted(str(key) for key in value))[:200] or "none"


def number(value: object, where: str) -> float:
    """Return ``value``, which must be a finite number and no boolean.

    Raises:
        FormatError: it is not, or it is an integer beyond the range of a float.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            converted = float(value)
        except OverflowError:
            converted = math.inf
        if math.isfinite(converted):
            return converted
    raise FormatError(f"{where}: expected a finite number, found {value!r:.40}")


def non_negative(value: object, where: str) -> float:
    """Return ``value``, which must be a finite number of at least 0.

    Raises:
        FormatError: it is not.
    """
    converted = number(value, where)
    if converted < 0.0:
        raise FormatError(f"{where}: expected a number of at least 0, found {value!r}")
    return converted


def numbers(values: object, where: str) -> list[float]:
    """Return ``values``, which must be a list of finite numbers.

    Raises:
        FormatError: it is not.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise FormatError(f"{where}: expected a list of numbers, found {type(values).__name__}")
    return [number(value, where) for value in values]


def finite_or_none(value: float) -> float | None:
    """Return a number as strict JSON can hold it: null stands for one that is not finite."""
    return value if math.isfinite(value) else None
