"""The RMT guard: did the largest singular value of a sublayer's activations leave its place?

The edge risk of a sublayer is r = sigma_max(A') / (sqrt(tokens) + sqrt(features)), its output A on the calibration
windows whitened by the baseline's mean and deviation per feature; the denominator is the edge of the spectrum of
pure noise (Marchenko and Pastur 1967). Whitened by the baseline, not by the subject itself, a change of scale shows.
Per group, the sublayer with the largest ln(r_subject / r_baseline) decides; only growth counts. In a residual stream
that was rotated or permuted the baseline's features are not the subject's; where the model was seen to do what it did
(:mod:`pytest_proofpack.guards.answers`), growth is explained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import (
    ActivationFacts,
    PairedSublayer,
    activation_contract,
    contract_facts,
    finite_or_none,
    mapping,
    non_negative,
    number,
    numbers,
    paired_sublayers,
    sublayer_baselines,
    sublayer_evidence,
)
from pytest_proofpack.guards.contract import contract_hash
from pytest_proofpack.guards.coverage import activation_coverage, coverage_words, covered
from pytest_proofpack.guards.guard import RMT, Block, Case, Gate, Guard, Rules, Shared, Words
from pytest_proofpack.guards.spectral_evidence import GROUP_WORDS

_SHA256 = re.compile("[0-9a-f]{64}")


def rmt_evidence(
    baseline: ActivationFacts,
    subject: ActivationFacts,
    null_log_ratios: Mapping[str, Sequence[float]] | None = None,
) -> JsonObject:
    """Return what a certificate records as evidence under ``rmt``.

    Args:
        baseline: facts about the unedited model.
        subject: facts about the edited one, on the same windows.
        null_log_ratios: per group, the guard's statistic between draws of windows of the unedited model, from a
            calibration preset; None without one.
    """
    return {
        "measurement_contract": subject.contract,
        "baseline_measurement_contract_hash": contract_hash(baseline.contract),
        "windows_sha256": subject.windows_sha256,
        "branches": sublayer_evidence(baseline, subject, "edge"),
        "null_log_ratios": {group: list(values) for group, values in (null_log_ratios or {}).items()},
    }


def derive_rmt(evidence: Mapping[str, Any], rules: Mapping[str, Any]) -> JsonObject:
    """Judge the evidence of :func:`rmt_evidence` by the ``rmt`` section of a policy.

    The keys are InvarLock 0.3.7's and mean what they mean there: ``epsilon`` is relative, so that ``allowed`` is
    (1 + epsilon) edge_base and ``delta`` is ratio - 1. Policy and null statistics are natural logarithms, recorded as
    ``log_epsilon`` and ``log_ratio``. ``edge_base`` and ``edge_cur`` are those of the group's worst sublayer.

    Nothing measured means not stable: a guard that saw no sublayer vouches for nothing.

    Raises:
        FormatError: the evidence is not what :func:`rmt_evidence` writes, or was measured by another contract than the
            policy demands.
    """
    sublayers = paired_sublayers(evidence, "rmt")
    contract = contract_facts(evidence, "rmt")
    if contract["measurement_contract_hash"] != contract_hash(rules["measurement_contract"]):
        raise FormatError("rmt: the measurement contract is not the policy's")
    if not _SHA256.fullmatch(str(evidence.get("windows_sha256"))):
        raise FormatError("rmt.windows_sha256: expected 64 hexadecimal digits")
    null = mapping(evidence.get("null_log_ratios"), "rmt.null_log_ratios")
    if surplus := null.keys() - {sublayer.group for sublayer in sublayers}:
        raise FormatError(f"rmt.null_log_ratios: no branch is of the family {min(surplus)!r:.40}")
    groups: dict[str, JsonObject] = {}
    violations: list[JsonObject] = []
    for group in sorted({sublayer.group for sublayer in sublayers}):
        epsilon, source = log_epsilon(numbers(null.get(group, ()), f"rmt.null_log_ratios.{group}"), rules)
        worst = worst_sublayer(sublayer for sublayer in sublayers if sublayer.group == group)
        groups[group] = _group(worst, epsilon, source)
        if worst.log_ratio > epsilon:
            violations.append(_violation(group, groups[group]))
    stable = bool(groups) and not violations and contract["measurement_contract_match"]
    return {
        "evaluated": bool(groups),
        "stable": stable,
        "status": "stable" if stable else "unstable",
        **contract,
        "families": groups,
        "edge_risk_by_family_base": _present(groups, "edge_base"),
        "edge_risk_by_family": _present(groups, "edge_cur"),
        "epsilon_default": math.expm1(_threshold(rules, "epsilon_default")),
        "epsilon_by_family": _present(groups, "epsilon"),
        "epsilon_source": {group: facts["epsilon_source"] for group, facts in groups.items()},
        "epsilon_violations": violations,
        "max_edge_ratio": max(_present(groups, "ratio").values(), default=None),
        "max_edge_delta": max(_present(groups, "delta").values(), default=None),
    }


def log_epsilon(null_log_ratios: Sequence[float], rules: Mapping[str, Any]) -> tuple[float, str]:
    """Return a group's tolerance of ln(r_subject / r_baseline), and where it comes from.

    With at least ``min_null_draws`` null statistics it is their ``null_quantile``, held between ``epsilon_floor`` and
    ``epsilon_ceiling``; with fewer, ``epsilon_default``.

    Returns:
        The tolerance, and ``"calibrated"``, ``"calibrated_floor"``, ``"calibrated_ceiling"`` or ``"tier_default"``.
    """
    import numpy as np  # who only lists the guards, goes without

    if len(null_log_ratios) < number(rules["min_null_draws"], "resolved_policy.rmt.min_null_draws"):
        return _threshold(rules, "epsilon_default"), "tier_default"
    floor, ceiling = _threshold(rules, "epsilon_floor"), _threshold(rules, "epsilon_ceiling")
    level = _threshold(rules, "null_quantile", most=1.0)
    quantile = float(np.quantile(np.asarray(null_log_ratios or (0.0,), dtype=np.float64), level))
    if quantile < floor:
        return floor, "calibrated_floor"
    if quantile > ceiling:
        return ceiling, "calibrated_ceiling"
    return quantile, "calibrated"


def worst_sublayer(sublayers: Iterable[PairedSublayer]) -> PairedSublayer:
    """Return the sublayer with the largest log ratio; one that can't be compared is worse than any."""
    return max(sublayers, key=lambda sublayer: (sublayer.problem is not None, sublayer.log_ratio))


def _threshold(rules: Mapping[str, Any], key: str, *, most: float = 10.0) -> float:
    """Read a threshold from a policy that may be hostile; e^10 is far beyond any tolerance of a ratio."""
    value = non_negative(rules[key], f"resolved_policy.rmt.{key}")
    if value > most:
        raise FormatError(f"resolved_policy.rmt.{key}: {value} is more than {most}")
    return value


def _group(worst: PairedSublayer, epsilon: float, source: str) -> JsonObject:
    ratio = worst.ratio
    return {
        "branch": worst.name,
        "problem": worst.problem,
        "edge_base": worst.base,
        "edge_cur": worst.cur,
        "ratio": ratio,
        "delta": None if ratio is None else ratio - 1.0,
        "log_ratio": finite_or_none(worst.log_ratio),
        "epsilon": math.expm1(epsilon),
        "log_epsilon": epsilon,
        "epsilon_source": source,
        "allowed": None if worst.base is None else finite_or_none(worst.base * math.exp(epsilon)),
    }


def _violation(group: str, facts: JsonObject) -> JsonObject:
    keys = ("branch", "edge_base", "edge_cur", "delta", "allowed", "epsilon")
    return {"family": group, "reason": facts["problem"] or "above_epsilon", **{key: facts[key] for key in keys}}


def _present(groups: Mapping[str, JsonObject], key: str) -> dict[str, float]:
    return {group: facts[key] for group, facts in groups.items() if facts[key] is not None}


def _words(block: Block, _: Rules) -> Words:
    edges = [
        f"{GROUP_WORDS.get(group, group)} edge {words.scalar(facts['ratio'])} of {words.number(1.0 + facts['epsilon'])}"
        + (f" ({words.printable(facts['branch'])}: {facts['problem'].replace('_', ' ')})" if facts["problem"] else "")
        for group, facts in block["families"].items()
    ]
    measured = ", ".join(edges) or "nothing"
    if block.get("explained"):
        measured += f" ({', '.join(block['explained'])} explained: the function was kept)"
    return measured + coverage_words(block), "edge ratios within their allowance, every sublayer judged"


def _derived(block: Block, rules: Rules, case: Case) -> JsonObject:
    """Judge the block; families that grew although the function was kept (a stream that turned) are explained."""
    derived = derive_rmt(block, rules)
    if case.inventory is not None:
        violations = derived["epsilon_violations"]
        kept = case.explained_down_to is not None and derived["measurement_contract_match"]
        explained = [own["family"] for own in violations if kept and own["reason"] == "above_epsilon"]
        derived |= {"explained": explained, "stable": derived["stable"] or 0 < len(explained) == len(violations)}
    derived = covered(derived, "stable", activation_coverage(block, case.inventory))
    return {**derived, "status": "stable" if derived["stable"] else "unstable"}


def _strain(block: Block, _: Rules) -> float:
    """Return the largest share that a family's growth takes of its allowance."""
    families = [facts for group, facts in block["families"].items() if group not in block.get("explained", ())]
    if any(facts["log_ratio"] is None for facts in families):
        return math.inf
    share: float = max(
        (facts["log_ratio"] / facts["log_epsilon"] for facts in families if facts["log_ratio"] > 0.0), default=0.0
    )
    return share if block["stable"] or share > 1.0 else math.inf


RMT_GUARD = Guard(
    name="rmt",
    judges="the edge of the spectrum of activations",
    evidence=frozenset(
        {
            "measurement_contract", "baseline_measurement_contract_hash", "windows_sha256", "branches",
            "null_log_ratios",
        }
    ),
    derive=_derived,
    gates=(
        Gate(
            "rmt_stable", lambda block: block["stable"], _words,
            title="growth of sublayer outputs",
        ),
    ),
    signal=RMT,
    section="rmt",
    followed=("max_edge_ratio",),
    strain=_strain,
    contract=lambda _: activation_contract(),
    shared=Shared(
        model=lambda block: {"null statistics": block["null_log_ratios"]},
        sample=lambda block: {
            "calibration windows": block["windows_sha256"],
            "sublayer outputs of the baseline": sublayer_baselines(block),
        },
    ),
    null_numbers={"max_edge_ratio": "max_edge_ratio"},
)  # fmt: skip
