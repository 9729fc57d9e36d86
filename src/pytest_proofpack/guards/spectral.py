"""The spectral guard: did an edit change the weights more than an edit of its kind should?

Every rule compares the subject's matrix with the same matrix of the baseline. The largest singular value alone misses
much (a truncated matrix keeps it), hence three statistics: it, the stable rank f^2/s^2, and the norms of rows and
columns. Few strong changes are tolerated (``max_caps`` parameters: one layer's feed-forward at low rank is a clean
edit), many are not, and some never are. Edits that keep the function (permute, rotate, rescale and scale back) compare
badly. Where the model was seen to do what it did (:mod:`pytest_proofpack.guards.answers`), their violations are counted
as explained, and not against the gate.

The z-scores by group measure how a layer differs from its group, not what an edit changed. They are recorded under
the names of InvarLock 0.3.7 and gate nothing.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.contract import contract_hash
from pytest_proofpack.guards.coverage import coverage_words, covered, spectral_coverage
from pytest_proofpack.guards.direction_evidence import grown_within
from pytest_proofpack.guards.guard import SPECTRAL, Block, Case, Gate, Guard, Rules, Shared, Words
from pytest_proofpack.guards.spectral_evidence import (
    SAME,
    MatrixChange,
    column_digests,
    read_evidence,
)
from pytest_proofpack.guards.spectral_rules import (
    SpectralViolation,
    each_violation,
    is_explained,
    matrix_violations,
    odd_norms,
    vector_violations,
)
from pytest_proofpack.guards.vocabulary_growth import explained_by_growth

VIOLATIONS_SHOWN = 16
"""How many violations a certificate lists; the counts are always exact."""

_CONTRACT: Mapping[str, Any] = {
    "estimator": "power_iteration",
    "value": "max_of_warm_and_random_starts",
    "arithmetic": "float32; on an accelerator, products with bfloat16 matrices as stored",
    "iterations": 6,
    "random_starts": 15,
    "baseline_block": 8,
    "baseline_iterations": 24,
    "seed": 1729,
    "min_entries": 8,
    "significant_digits": 7,
}
_LIMITS = (
    "sigma_ratio_max",
    "stable_rank_ratio_min",
    "stable_rank_ratio_severe",
    "row_ratio_min",
    "row_baseline_floor",
    "fatal_sigma_ratio",
    "fatal_row_ratio",
    "fatal_protected_row_ratio",
)
_LARGEST_LIMIT = 1e6
_RESHAPED = "reshaped_tensors"
_RANKS = {"fatal": 0, "severe": 1, "budgeted": 2}


def measurement_contract(policy: Mapping[str, Any]) -> JsonObject:
    """Return how spectra are to be measured under the policy section ``spectral``.

    The estimate is the largest of several power iterations, by W and its transpose in turn, ``iterations`` times:
    from the baseline's right singular vector, and from ``random_starts`` vectors of seeded normal numbers. The
    baseline's own vector comes from ``baseline_iterations`` of a subspace iteration with ``baseline_block`` vectors.
    Rows and columns whose norm in the baseline is at most ``row_floor`` times the median are not compared with
    themselves, and those of fewer than ``min_entries`` entries not at all: a single entry may well be rounded or
    pruned to zero.
    """
    return {**_CONTRACT, "row_floor": policy["row_baseline_floor"]}


def derive_spectral(
    block: Mapping[str, Any],
    policy: Mapping[str, Any],
    sha256: Callable[[object], str] = sha256_of,
    explains: Callable[[SpectralViolation], bool] = lambda _: False,
) -> JsonObject:
    """Judge the evidence of a certificate's ``spectral`` block.

    Args:
        block: the block, or its evidence alone (:meth:`SpectralEvidence.to_json`).
        policy: the policy section ``spectral``.
        sha256: the digest of a JSON value, in the certificate's format.
        explains: tells which violations something else explains; they do not count.

    Returns:
        The derived keys of the block. ``stable`` is the gate ``spectral_stable``.

    Raises:
        FormatError: evidence or policy is malformed, the evidence contradicts itself, or it was measured by another
            contract than the policy demands.
    """
    evidence = read_evidence(block)
    _check_policy(policy)
    used = contract_hash(evidence.contract)
    if used != contract_hash(policy.get("measurement_contract", measurement_contract(policy))):
        raise FormatError("spectral: the measurement contract is not the policy's")
    matrices, vectors = evidence.matrices, evidence.vectors
    found = [*each_violation(matrix_violations, matrices, policy), *each_violation(vector_violations, vectors, policy)]
    violations = sorted(
        (violation for violation in found if not explains(violation)), key=lambda violation: _RANKS[violation.severity]
    )
    odd = [warning for warning in odd_norms(vectors, policy) if not explains(warning)]
    fatal = [violation for violation in violations if violation.severity == "fatal"]
    budgeted = {violation.parameter: violation.group for violation in violations if violation.severity != "fatal"}
    exceeded = len(budgeted) > policy["max_caps"]
    match = used == evidence.baseline_contract_hash
    by_kind = Counter(f"{violation.kind}_{violation.severity}" for violation in violations)
    return {
        "evaluated": True,
        "measurement_contract_hash": used,
        "measurement_contract_match": match,
        "stable": match and not fatal and not exceeded,
        "fatal_violations": len(fatal),
        "caps_applied": len(budgeted),
        "caps_exceeded": exceeded,
        "max_caps": policy["max_caps"],
        "caps_applied_by_family": dict(sorted(Counter(budgeted.values()).items())),
        "violation_counts": dict(sorted(by_kind.items())),
        "top_violations": [violation.to_json() for violation in violations[:VIOLATIONS_SHOWN]],
        "summary": _summary(matrices, policy, len(budgeted), exceeded),
        **_groups(matrices, policy),
        "warnings": _warnings(violations, bool(odd), evidence.added, evidence.reshaped),
        "digests": column_digests(block, sha256),
    }


def _check_policy(policy: Mapping[str, Any]) -> None:
    """Refuse limits that cannot be computed with.

    Raises:
        FormatError: a limit is missing or no positive number.
    """
    caps = policy.get("family_caps") if isinstance(policy, Mapping) else None
    if not isinstance(caps, Mapping) or "other" not in caps:
        raise FormatError("resolved_policy.spectral.family_caps: expected numbers by family, other included")
    limits = {**{key: policy.get(key) for key in _LIMITS}, "max_caps": policy.get("max_caps"), **caps}
    for key, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= _LARGEST_LIMIT:
            raise FormatError(f"resolved_policy.spectral: {key} must be a number from 0 to {_LARGEST_LIMIT:g}")
        if key in ("sigma_ratio_max", "fatal_sigma_ratio") and limit < 1:
            raise FormatError(f"resolved_policy.spectral: {key} must be at least 1")


def _summary(matrices: Sequence[MatrixChange], policy: Mapping[str, Any], caps: int, exceeded: bool) -> JsonObject:
    both = [
        (matrix.current_sigma, matrix.sigma_base)
        for matrix in matrices
        if matrix.current_sigma is not None and matrix.sigma_base is not None
    ]
    ratios = [value / base for value, base in both if base > 0]
    norms, base_norms = [value for value, _ in both], [base for _, base in both]
    return {
        "status": "capped" if caps else "stable",
        "caps_exceeded": exceeded,
        "max_caps": policy["max_caps"],
        "modules_checked": len(matrices),
        "modules_changed": sum(matrix.state != SAME for matrix in matrices),
        "max_sigma_ratio": max(ratios, default=None),
        "min_sigma_ratio": min(ratios, default=None),
        "median_sigma_ratio": statistics.median(ratios) if ratios else None,
        "max_spectral_norm": max(norms, default=None),
        "mean_spectral_norm": statistics.fmean(norms) if norms else None,
        "baseline_max_spectral_norm": max(base_norms, default=None),
        "baseline_mean_spectral_norm": statistics.fmean(base_norms) if base_norms else None,
    }


def _groups(matrices: Sequence[MatrixChange], policy: Mapping[str, Any]) -> JsonObject:
    """Return z-scores of the subject's singular values within the baseline's groups, against the caps kappa."""
    members: dict[str, list[MatrixChange]] = defaultdict(list)
    for matrix in matrices:
        members[matrix.group].append(matrix)
    caps = policy["family_caps"]
    parameter_groups, quantiles, top = {}, {}, {}
    for parameter_group, group in sorted(members.items()):
        kappa = caps.get(parameter_group, caps["other"])
        scores = _z_scores(group)
        if not scores:
            continue
        sizes = sorted(abs(score) for score in scores.values())
        parameter_groups[parameter_group] = {
            "count": len(scores),
            "mean": statistics.fmean(scores.values()),
            "max": sizes[-1],
            "kappa": kappa,
            "violations": sum(size > kappa for size in sizes),
        }
        quantiles[parameter_group] = {
            "q95": _quantile(sizes, 0.95),
            "q99": _quantile(sizes, 0.99),
            "max": sizes[-1],
            "count": len(sizes),
        }
        largest = sorted(scores.items(), key=lambda item: (-abs(item[1]), item[0]))[:3]
        top[parameter_group] = [{"module": name, "z": score} for name, score in largest]
    return {
        "family_caps": {parameter_group: {"kappa": kappa} for parameter_group, kappa in caps.items()},
        "families": parameter_groups,
        "family_z_quantiles": quantiles,
        "top_z_scores": top,
    }


def _z_scores(group: Sequence[MatrixChange]) -> dict[str, float]:
    """Return (s - mean) / deviation, both of the baseline's group; empty where the group has no deviation."""
    base = [matrix.sigma_base for matrix in group if matrix.sigma_base is not None]
    if len(base) < 2:
        return {}
    mean, deviation = statistics.fmean(base), statistics.pstdev(base)
    if deviation <= 1e-9 * mean:
        return {}
    values = {matrix.name: matrix.current_sigma for matrix in group}
    return {name: (value - mean) / deviation for name, value in values.items() if value is not None}


def _quantile(ordered: Sequence[float], level: float) -> float:
    """Return a quantile of sorted values, interpolated linearly between neighbours.

    By ``numpy.interp``: the last bit of ``numpy.quantile`` is another one, and these numbers were recorded before.
    """
    import numpy as np  # who only lists the guards, goes without

    return float(np.interp((len(ordered) - 1) * level, range(len(ordered)), ordered))


def _warnings(
    violations: Sequence[SpectralViolation],
    odd: bool,
    added: Sequence[str],
    reshaped: Sequence[str],
) -> list[str]:
    """Name what a reader should look at though it need not fail the gate."""
    severities = {violation.severity for violation in violations}
    raised = {
        "budgeted_violations": bool(severities & {"budgeted", "severe"}),
        "severe_violations": "severe" in severities,
        "vector_norms": odd,
        "added_tensors": bool(added),
        _RESHAPED: bool(reshaped),
    }
    return [name for name, is_raised in raised.items() if is_raised]


def _words(block: Block, rules: Rules) -> Words:
    measured = f"fatal violations: {block['fatal_violations']}, parameters with a lesser one: {block['caps_applied']}"
    if block.get("explained", {}).get("count"):
        measured += f" ({block['explained']['count']} more are explained: the function was kept)"
    demanded = f"no fatal violation, at most {rules['max_caps']} parameters with a lesser one, every parameter judged"
    return measured + coverage_words(block), demanded


def _used(block: Block, rules: Rules) -> float | None:
    """Return the share of the budget that is used up; a fatal violation is beyond any."""
    if block["fatal_violations"]:
        return math.inf
    return block["caps_applied"] / rules["max_caps"] if rules["max_caps"] else None


def _derived(block: Block, rules: Rules, case: Case) -> JsonObject:
    if case.inventory is None:  # format 1, which knows of no explanation
        return derive_spectral(block, rules, case.sha256)
    tables = grown_within(case.blocks["direction"])
    explained: list[SpectralViolation] = []

    def explains(violation: SpectralViolation) -> bool:
        holds = is_explained(violation, case.explained_down_to, tables)
        explained.extend([violation] if holds else [])
        return holds

    derived = derive_spectral(block, rules, case.sha256, explains)
    names = list(dict.fromkeys(violation.name for violation in explained))
    if explained_by_growth(case.blocks["invariants"]["violations"]):  # one finding, which the invariants have
        derived["warnings"] = [name for name in derived["warnings"] if name != _RESHAPED]
    derived["explained"] = {"count": len(explained), "names": names[:VIOLATIONS_SHOWN]}
    return covered(derived, "stable", spectral_coverage(block, case.inventory, case.changed))


def _baseline_numbers(block: Block) -> JsonObject:
    """Return what the tables say of the baseline, by name."""
    return {
        name: list(numbers)
        for table, columns in (("matrices", ("sigma_base", "frobenius_base")), ("vectors", ("norm_base",)))
        for name, *numbers in zip(block[table]["name"], *(block[table][column] for column in columns), strict=True)
    }


SPECTRAL_GUARD = Guard(
    name="spectral",
    judges="singular values, and norms of rows and columns",
    evidence=frozenset(
        {"measurement_contract", "baseline_measurement_contract_hash", "matrices", "vectors", "added", "reshaped"}
    ),
    derive=_derived,
    gates=(
        Gate(
            "spectral_stable",
            lambda block: block["stable"],
            _words,
            title="spectra of weights",
            used=_used,
        ),
    ),
    signal=SPECTRAL,
    warnings={"spectral": lambda block: block["stable"] and bool(block["warnings"])},
    section="spectral",
    tightens={
        "sigma_ratio_max": "max",
        "stable_rank_ratio_min": "min",
        "row_ratio_min": "min",
        "max_caps": "max",
    },
    followed=("summary.max_sigma_ratio",),
    shared=Shared(
        model=lambda block: {"spectra of the baseline": _baseline_numbers(block)},
        edited=lambda block: {"spectra": {key: block[key] for key in ("matrices", "vectors", "added", "reshaped")}},
    ),
    contract=measurement_contract,
    null_numbers={"spectral_caps_applied": "caps_applied"},
)
