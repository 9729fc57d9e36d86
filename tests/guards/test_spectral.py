"""The spectral guard's rules, from evidence to gate, and its evidence against forgers."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.contract import contract_hash
from pytest_proofpack.guards.spectral import VIOLATIONS_SHOWN, derive_spectral, measurement_contract
from pytest_proofpack.guards.spectral_evidence import (
    MatrixChange,
    SpectralEvidence,
    VectorChange,
    column_digests,
    read_evidence,
)
from pytest_proofpack.guards.spectral_rules import SpectralViolation

POLICY = resolve_policy("balanced").section("spectral")
CONTRACT = measurement_contract(POLICY)


def _matrix(name: str = "a", group: str = "ffn", **numbers: float) -> MatrixChange:
    """Return a matrix with s = 2, f = 4 and unchanged rows, except for ``numbers``."""
    unchanged = {
        "sigma_base": 2.0,
        "frobenius_base": 4.0,
        "sigma": 2.0,
        "frobenius": 4.0,
        "row_min": 1.0,
        "row_max": 1.0,
        "column_min": 1.0,
        "column_max": 1.0,
    }
    return MatrixChange(name, group, "measured", **{**unchanged, **numbers})


def _scaled(ratio: float, name: str = "a", group: str = "ffn") -> MatrixChange:
    return _matrix(name, group, sigma=2 * ratio, frobenius=4 * ratio)


def _gain(low: float = 1.0, high: float = 1.0) -> VectorChange:
    return VectorChange(
        "n", "norm", "measured", gain=True, norm_base=1, norm=1, change=0, ratio_min=low, ratio_max=high
    )


def _evidence(
    matrices: Sequence[MatrixChange] = (), vectors: Sequence[VectorChange] = (), **rest: Any
) -> SpectralEvidence:
    return SpectralEvidence(CONTRACT, contract_hash(CONTRACT), tuple(matrices), tuple(vectors), **rest)


def _judge(matrices: Sequence[MatrixChange] = (), vectors: Sequence[VectorChange] = (), **rest: Any) -> JsonObject:
    return derive_spectral(_evidence(matrices, vectors, **rest).to_json(), POLICY)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (_scaled(1.0999), {}),
        (_scaled(1.1001), {"sigma_ratio_budgeted": 1}),
        (_scaled(1 / 1.0999), {}),
        (_scaled(1 / 1.1001), {"sigma_ratio_budgeted": 1}),
        (_scaled(9.99), {"sigma_ratio_budgeted": 1}),
        (_scaled(10.01), {"sigma_ratio_fatal": 1}),
        (_scaled(0.101), {"sigma_ratio_budgeted": 1}),
        (_scaled(0.099), {"sigma_ratio_fatal": 1}),
        (_scaled(0.0), {"sigma_ratio_fatal": 1}),
        (_matrix(frobenius=4 * math.sqrt(0.51)), {}),
        (_matrix(frobenius=4 * math.sqrt(0.49)), {"stable_rank_budgeted": 1}),
        (_matrix(frobenius_base=8.0, frobenius=8 * math.sqrt(0.251)), {"stable_rank_budgeted": 1}),
        (_matrix(frobenius_base=8.0, frobenius=8 * math.sqrt(0.249)), {"stable_rank_severe": 1}),
        (_matrix(row_min=0.251), {}),
        (_matrix(row_min=0.249), {"row_ratio_budgeted": 1}),
        (_matrix(group="attn", column_min=0.0), {"column_ratio_budgeted": 1}),
        (_matrix(group="router", row_min=0.0, column_min=0.0), {}),
        (_matrix(row_max=9.99), {}),
        (_matrix(row_max=10.01), {"row_ratio_fatal": 1}),
        (_matrix(group="other", column_max=10.01), {"column_ratio_fatal": 1}),
        (_matrix(group="embed", row_min=0.101, column_min=0.0), {}),
        (_matrix(group="embed", row_min=0.099), {"row_ratio_fatal": 1}),
        (_matrix(group="head", row_min=0.099), {"row_ratio_fatal": 1}),
        (MatrixChange("a", "ffn", "same", 2.0, 4.0), {}),
        (MatrixChange("a", "ffn", "not_finite", 2.0, 4.0), {"not_finite_fatal": 1}),
        (MatrixChange("a", "ffn", "not_finite"), {"not_finite_fatal": 1}),
        (MatrixChange("a", "ffn", "missing", 2.0, 4.0), {"missing_fatal": 1}),
    ],
)
def test_rules_for_one_matrix(matrix: MatrixChange, expected: dict[str, int]) -> None:
    derived = _judge([matrix])
    assert derived["violation_counts"] == expected
    assert derived["stable"] is not any(key.endswith("_fatal") for key in expected)
    assert derived["caps_applied"] == int(any(not key.endswith("_fatal") for key in expected))


@pytest.mark.parametrize(
    ("vector", "stable"),
    [
        (_gain(), True),
        (_gain(low=0.101), True),
        (_gain(low=0.099), False),
        (_gain(high=10.01), False),
        (VectorChange("b", "ffn", "measured", gain=False, norm_base=1, norm=99, change=98), True),
        (VectorChange("b", "ffn", "not_finite", gain=False, norm_base=1), False),
        (VectorChange("b", "ffn", "missing", gain=False, norm_base=1), False),
    ],
)
def test_rules_for_one_vector(vector: VectorChange, stable: bool) -> None:
    assert _judge(vectors=[vector])["stable"] is stable


@pytest.mark.parametrize("norms", [(99.0, 0.01), (0.01, 99.0)], ids=["explained first", "explained last"])
def test_every_odd_norm_is_asked_about_whatever_their_order(norms: tuple[float, float]) -> None:
    vectors = [
        VectorChange(name, "ffn", "measured", gain=False, norm_base=1, norm=norm, change=98)
        for name, norm in zip("ab", norms, strict=True)
    ]
    explained: list[SpectralViolation] = []

    def explains(violation: SpectralViolation) -> bool:
        explained.extend([violation] if violation.value == 99.0 else [])
        return violation.value == 99.0

    derived = derive_spectral(_evidence(vectors=vectors).to_json(), POLICY, explains=explains)
    assert (len(explained), derived["warnings"]) == (1, ["vector_norms"])


def test_up_to_max_caps_parameters_may_change_strongly() -> None:
    changed = [_scaled(1.5, f"layer{index}") for index in range(6)]
    within, beyond = _judge(changed[:5]), _judge(changed)
    assert (within["stable"], within["caps_applied"], within["caps_exceeded"]) == (True, 5, False)
    assert (beyond["stable"], beyond["caps_applied"], beyond["caps_exceeded"]) == (False, 6, True)
    assert beyond["caps_applied_by_family"] == {"ffn": 6}


def test_matrices_of_one_parameter_count_once() -> None:
    experts = [_scaled(1.5, f"experts.down[expert{index}]") for index in range(64)]
    derived = _judge(experts)
    assert derived["caps_applied"] == 1
    assert derived["stable"]
    assert derived["violation_counts"] == {"sigma_ratio_budgeted": 64}


def test_the_worst_violations_are_listed_first_and_not_all() -> None:
    budgeted = [_scaled(1.5, f"layer{index}") for index in range(100)]
    derived = _judge([*budgeted, _scaled(100, "exploded")])
    listed = derived["top_violations"]
    assert len(listed) == VIOLATIONS_SHOWN
    assert listed[0] == {
        "module": "exploded",
        "family": "ffn",
        "kind": "sigma_ratio",
        "severity": "fatal",
        "value": 100.0,
    }


def test_tighter_policies_see_more() -> None:
    policy = resolve_policy("conservative").section("spectral")
    contract = measurement_contract(policy)
    evidence = SpectralEvidence(contract, contract_hash(contract), (_scaled(1.08),), ())
    assert derive_spectral(evidence.to_json(), policy)["caps_applied"] == 1
    assert _judge([_scaled(1.08)])["caps_applied"] == 0


def test_z_scores_are_those_of_the_subject_in_the_group_of_the_baseline_and_never_gate() -> None:
    base = (1.0, 2.0, 3.0)
    matrices = [
        _matrix(f"m{index}", "attn", sigma_base=value, sigma=value * 1.05, frobenius=9, frobenius_base=9)
        for index, value in enumerate(base)
    ]
    far = MatrixChange("far", "attn", "same", 400.0, 400.0)
    derived = _judge([*matrices, far, _matrix("alone", "embed")])
    mean = (sum(base) + 400) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in (*base, 400)) / 4)
    assert derived["families"]["attn"]["count"] == 4
    assert derived["families"]["attn"]["max"] == pytest.approx((400 - mean) / deviation)
    assert derived["top_z_scores"]["attn"][0] == {"module": "far", "z": pytest.approx((400 - mean) / deviation)}
    assert derived["family_z_quantiles"]["attn"]["max"] == derived["families"]["attn"]["max"]
    assert derived["family_caps"]["attn"] == {"kappa": 3.018}
    assert "embed" not in derived["families"], "one matrix has no deviation"
    assert derived["stable"]
    outlier = [MatrixChange(f"m{index}", "ffn", "same", 1 + index / 100, 9) for index in range(40)]
    derived = _judge([*outlier, MatrixChange("far", "ffn", "same", 8.0, 9.0)])
    assert derived["families"]["ffn"]["violations"] == 1
    assert derived["stable"]


def test_the_summary_relates_norms_to_the_baseline() -> None:
    summary = _judge([_scaled(0.5, "a"), _scaled(1.05, "b"), MatrixChange("c", "attn", "same", 6.0, 9.0)])["summary"]
    assert summary["min_sigma_ratio"] == 0.5
    assert summary["max_sigma_ratio"] == 1.05
    assert summary["median_sigma_ratio"] == 1.0
    assert summary["max_spectral_norm"] == 6.0
    assert summary["baseline_mean_spectral_norm"] == pytest.approx(10 / 3)
    assert (summary["modules_checked"], summary["modules_changed"], summary["status"]) == (3, 2, "capped")


def test_warnings_name_what_does_not_gate() -> None:
    loud = VectorChange("b", "attn", "measured", gain=False, norm_base=1, norm=11, change=10)
    collapsed = _matrix(sigma=2.0, frobenius=2.0, frobenius_base=8.0, row_min=0.2)
    derived = _judge([collapsed], [loud], added=("extra",), reshaped=("a",))
    assert derived["stable"]
    assert derived["warnings"] == [
        "budgeted_violations",
        "severe_violations",
        "vector_norms",
        "added_tensors",
        "reshaped_tensors",
    ]
    assert _judge([_matrix()])["warnings"] == []


def test_a_baseline_measured_by_another_contract_is_not_stable() -> None:
    block = _evidence([_matrix()]).to_json()
    assert derive_spectral(block, POLICY)["measurement_contract_match"] is True
    block["baseline_measurement_contract_hash"] = "0" * 16
    derived = derive_spectral(block, POLICY)
    assert (derived["measurement_contract_match"], derived["stable"]) == (False, False)


def test_the_contract_must_be_the_policys() -> None:
    block = _evidence([_matrix()]).to_json()
    block["measurement_contract"] = {**CONTRACT, "iterations": 1}
    block["baseline_measurement_contract_hash"] = contract_hash(block["measurement_contract"])
    with pytest.raises(FormatError, match="contract"):
        derive_spectral(block, POLICY)
    policy = {**POLICY, "measurement_contract": block["measurement_contract"]}
    assert derive_spectral(block, policy)["measurement_contract_hash"] == contract_hash(block["measurement_contract"])


def test_the_hash_of_a_contract_is_invarlocks() -> None:
    assert contract_hash({"b": [1, 2.5], "a": "é"}) == "ae69300a3a606a03"
    assert contract_hash({"a": "é", "b": [1, 2.5]}) == "ae69300a3a606a03"


def test_evidence_survives_json_and_judges_the_same() -> None:
    evidence = _evidence(
        [_scaled(1.5), MatrixChange("s", "head", "same", 1.0, 2.0), MatrixChange("x", "attn", "not_finite")],
        [_gain(), VectorChange("b", "ffn", "same", gain=False, norm_base=3)],
        added=("new",),
        reshaped=("a",),
    )
    block = parse_json(compact_json(evidence.to_json()).encode(), "spectral")
    assert read_evidence(block) == evidence
    derived = derive_spectral(block, POLICY)
    assert parse_json(compact_json(derived).encode(), "derived") == derived
    assert derive_spectral({**block, **derived}, POLICY) == derived


def test_a_changed_number_shows_in_the_digest_of_its_column() -> None:
    block = _evidence([_scaled(1.0), _scaled(1.0, "b")], [_gain()]).to_json()
    before = column_digests(block)
    block["matrices"]["sigma"][1] = 2.0000001
    after = column_digests(block)
    assert {key for key in before if before[key] != after[key]} == {"matrices.sigma"}
    assert derive_spectral(block, POLICY)["digests"] == after


JUNK: tuple[Any, ...] = (
    None,
    True,
    "x",
    "",
    -1,
    -0.5,
    10**400,
    1e308,
    5e-324,
    1e39,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    math.nan,
    math.inf,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))


def test_hostile_evidence_and_policies_raise_format_errors_only() -> None:
    block = _evidence(
        [_scaled(1.5), MatrixChange("s", "head", "same", 1.0, 2.0)],
        [_gain(), VectorChange("b", "ffn", "same", gain=False, norm_base=3)],
        added=("new",),
    ).to_json()
    refused = 0
    for document, junk in itertools.product(("block", "policy"), JUNK):
        for path in _places(block if document == "block" else POLICY):
            forged = {"block": copy.deepcopy(block), "policy": copy.deepcopy(POLICY)}
            place: Any = forged
            for key in (document, *path)[:-1]:
                place = place[key]
            place[(document, *path)[-1]] = copy.deepcopy(junk)
            try:
                json.dumps(derive_spectral(forged["block"], forged["policy"]), allow_nan=False)
            except FormatError:
                refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    ("table", "column", "index", "value"),
    [
        ("matrices", "sigma", 0, 5.0),  # above the Frobenius norm
        ("matrices", "row_min", 0, 2.0),  # above the maximum
        ("matrices", "sigma", 0, None),  # measured, but not there
        ("matrices", "sigma", 1, 1.0),  # there, but not measured
        ("matrices", "sigma_base", 1, None),
        ("matrices", "state", 0, "missing"),
        ("matrices", "name", 1, "a"),  # twice
        ("matrices", "name", 1, "n"),  # a vector's
        ("matrices", "family", 0, "experts"),
        ("matrices", "name", 0, "x" * 513),
        ("vectors", "gain", 1, True),  # unmeasured gain is fine, measured bias is not
        ("vectors", "ratio_min", 0, 3.0),
    ],
)
def test_evidence_that_contradicts_itself_is_refused(table: str, column: str, index: int, value: object) -> None:
    bias = VectorChange("b", "ffn", "measured", gain=False, norm_base=3, norm=3, change=0)
    block = _evidence([_matrix("a"), MatrixChange("s", "head", "same", 1.0, 2.0)], [_gain(), bias]).to_json()
    derive_spectral(block, POLICY)
    block[table][column][index] = value
    with pytest.raises(FormatError, match="spectral"):
        derive_spectral(block, POLICY)


def test_columns_of_unequal_length_are_refused() -> None:
    block = _evidence([_matrix("a")]).to_json()
    block["matrices"]["row_max"].append(1.0)
    with pytest.raises(FormatError, match="one length"):
        read_evidence(block)
