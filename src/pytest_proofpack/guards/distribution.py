"""The distribution guard: did the subject's next-token probabilities move away from the baseline's?

Perplexity sees only the probability of the token that came; this guard sees all of them. Per scored token of the final
windows it compares baseline p and subject q by KL(p || q) = sum p ln(p / q), in nats. Only the k largest of the
baseline's log-probabilities are kept. All other tokens form one bucket, and by the log-sum inequality (Cover and
Thomas, Elements of Information Theory, theorem 2.7.1) joining tokens never makes KL larger. So the numbers are a
lower bound, and exact where k is the vocabulary.

Reference points of the mean KL and of top-1 agreement: 8-bit weights 0.0003 and 99 %, good 5-bit 0.005 and 96 %, 3-bit
0.05 and 90 %; the same model in bfloat16 instead of float32 0.0005 and 98.5 %; on small models clean edits of
feed-forward layers at most 0.02, half of all weights pruned 0.11 to 0.26, wrecked models above 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.guards.activations import exact_mapping, finite_or_none, non_negative, number
from pytest_proofpack.guards.guard import DISTRIBUTION, Block, Gate, Guard, Rules, Shared, Words

TOP_K = 64
"""Log-probabilities kept per token where memory allows."""
MIN_TOP_K = 16
"""Fewer are never kept; windows are left out instead."""
CACHE_BYTES = 512 * 2**20
"""Upper bound on the cache of one draw's final windows."""
MIN_CACHE_BYTES = 64 * 2**20
"""A bound below this is refused: this one still holds half a million tokens, so evidence never becomes thin."""

ROUNDING = 1e-6
"""How far below zero a KL may lie: the float32 rounding of log-probabilities and of the tail's mass."""

PROBLEMS = ("not_measured", "vocabulary_smaller")
"""Why a subject has no numbers, other than that they are not finite."""

_LOG_PROBABILITY_BYTES = 4
_TOP_1_BYTES = 4
_SHORT_IDS = 2**15
_MAX_VOCABULARY = 2**31 - 1
_MAX_KL = 1e39  # above the largest float32, so sums of any number of them are floats
_LIMITS = ("kl_mean_warn", "kl_mean_fail")
_COUNTS = ("agreed", "baseline_right", "right_to_wrong", "wrong_to_right")
_METHOD: Mapping[str, str] = {"direction": "baseline_to_subject", "estimator": "top_k_and_tail_lower_bound"}
_MEASUREMENT_KEYS = frozenset({*_METHOD, "top_k", "vocabulary", "cache_bytes", "cache_bytes_limit"})
_WINDOW_KEYS = frozenset({"kl_mean", *_COUNTS})


@dataclass(frozen=True)
class CachePlan:
    """What is kept of the baseline: the first ``windows`` final windows, ``top_k`` log-probabilities per token.

    Attributes:
        windows: windows kept, counted from the first.
        scored: scored tokens per window.
        top_k: log-probabilities per token.
        vocabulary: the baseline's.
        bytes_limit: the bound on ``bytes``.
    """

    windows: int
    scored: int
    top_k: int
    vocabulary: int
    bytes_limit: int = CACHE_BYTES

    @property
    def tokens(self) -> int:
        """Scored tokens kept."""
        return self.windows * self.scored

    @property
    def bytes(self) -> int:
        """Size of the cache in memory and, but for a header, in its file."""
        return cache_bytes(self.tokens, self.top_k, self.vocabulary)


def id_bytes(vocabulary: int) -> int:
    """Return the bytes that one token id takes: 2 where all of them fit into int16, else 4."""
    return 2 if vocabulary <= _SHORT_IDS else 4


def cache_bytes(tokens: int, top_k: int, vocabulary: int) -> int:
    """Return the size of a cache: per token ``top_k`` float32 with their ids, and the id of the first (int32).

    Log-probabilities are float32, as computed: in float16, one of -10 is off by up to 0.004, more than the KL of
    8-bit weights, while the cache of a usual run (100 windows of 512 tokens) takes 26 MB in float32 all the same.
    """
    return tokens * (top_k * (_LOG_PROBABILITY_BYTES + id_bytes(vocabulary)) + _TOP_1_BYTES)


def plan_cache(windows: int, scored: int, vocabulary: int, bytes_limit: int = CACHE_BYTES) -> CachePlan:
    """Plan the cache of ``windows`` windows with ``scored`` scored tokens each, within ``bytes_limit``.

    Kept are the 64 largest log-probabilities per token (all, in a smaller vocabulary). Where that is too much, as many
    as fit, but at least 16; and where 16 are too much, 16 of the first windows, as many as fit.

    Raises:
        ConfigurationError: the bound is below :data:`MIN_CACHE_BYTES`, or does not hold one window.
    """
    tokens, per_value = windows * scored, _LOG_PROBABILITY_BYTES + id_bytes(vocabulary)
    fitting = (bytes_limit // tokens - _TOP_1_BYTES) // per_value
    top_k = min(vocabulary, TOP_K, max(MIN_TOP_K, fitting))
    kept = min(windows, bytes_limit // cache_bytes(scored, top_k, vocabulary))
    if bytes_limit < MIN_CACHE_BYTES or kept < 1:
        raise ConfigurationError(
            f"a cache of {bytes_limit} bytes is too small for the baseline's distribution on windows of {scored} "
            f"scored tokens: allow at least {MIN_CACHE_BYTES} bytes, or use shorter windows."
        )
    return CachePlan(kept, scored, top_k, vocabulary, bytes_limit)


@dataclass(frozen=True)
class DistributionFacts:
    """What was measured on one subject, on the windows that the plan keeps.

    A model's choice is its most probable token, the one with the lowest id where several tie (in bfloat16 they do). A
    token counts as agreed where both models choose the same, as right where a model chooses what came. Without finite
    logits a subject chooses nothing.

    Attributes:
        plan: what the baseline's cache holds.
        kl_mean: lower bound of the mean KL(baseline || subject) per window, in nats per token; may hold NaN.
        agreed, baseline_right, right_to_wrong, wrong_to_right: tokens per window.
        kl_q99, kl_max: over all tokens; NaN or infinite unless every token's KL is finite.
        problem: why nothing could be measured, one of :data:`PROBLEMS`, else None.
    """

    plan: CachePlan
    kl_mean: Sequence[float]
    agreed: Sequence[int]
    baseline_right: Sequence[int]
    right_to_wrong: Sequence[int]
    wrong_to_right: Sequence[int]
    kl_q99: float
    kl_max: float
    problem: str | None = None


def distribution_evidence(facts: DistributionFacts) -> JsonObject:
    """Return what a certificate records as evidence under ``distribution``.

    ``kl_q99`` and ``kl_max`` are of single tokens and can't be computed again from the windows: they stand as measured
    and gate nothing; :func:`derive_distribution` only checks that they are possible. Null is a value that is not
    finite.
    """
    plan = facts.plan
    return {
        "measurement": {
            **_METHOD,
            "top_k": plan.top_k,
            "vocabulary": plan.vocabulary,
            "cache_bytes": plan.bytes,
            "cache_bytes_limit": plan.bytes_limit,
        },
        "final": {
            "kl_mean": [finite_or_none(kl) for kl in facts.kl_mean],
            **{key: list(getattr(facts, key)) for key in _COUNTS},
        },
        "kl_q99": finite_or_none(facts.kl_q99),
        "kl_max": finite_or_none(facts.kl_max),
        "problem": facts.problem,
    }


def derive_distribution(
    evidence: Mapping[str, Any], rules: Mapping[str, Any], token_counts: Sequence[int]
) -> JsonObject:
    """Judge the evidence of :func:`distribution_evidence` by the ``distribution`` section of a policy.

    ``passed`` is false where the mean KL is above ``kl_mean_fail`` or where a window has none (``invalid``);
    ``warned`` is true above ``kl_mean_warn``, and wherever it fails. ``status`` is ``pass``, ``warn`` or ``fail``.

    Args:
        evidence: the certificate's block.
        rules: the thresholds.
        token_counts: scored tokens of all final windows, positive.

    Raises:
        FormatError: the evidence is not what that function writes, or contradicts itself or ``token_counts``.
    """
    warn, fail = (non_negative(rules.get(key), f"resolved_policy.distribution.{key}") for key in _LIMITS)
    counts = _kept_counts(evidence, token_counts)
    windows = exact_mapping(evidence.get("final"), "distribution.final", _WINDOW_KEYS)
    divergences = _divergences(windows, len(counts))
    totals = _totals(windows, counts)
    tokens = sum(counts)
    invalid = None in divergences
    mean = _mean(divergences, counts)
    _check_extremes(evidence, divergences, mean, tokens)
    passed = mean is not None and mean <= fail
    warned = mean is None or not passed or mean > warn
    gained, lost = totals["wrong_to_right"], totals["right_to_wrong"]
    return {
        "evaluated": True,
        "passed": passed,
        "warned": warned,
        "status": ("warn" if warned else "pass") if passed else "fail",
        "invalid": invalid,
        "invalid_reason": _invalid_reason(evidence, invalid),
        "tokens": tokens,
        "coverage": tokens / sum(token_counts),
        "kl_mean": mean,
        "kl_mean_warn": warn,
        "kl_mean_fail": fail,
        "top1_agreement": totals["agreed"] / tokens,
        "right_to_wrong": lost / tokens,
        "wrong_to_right": gained / tokens,
        "baseline_accuracy": totals["baseline_right"] / tokens,
        "subject_accuracy": (totals["baseline_right"] - lost + gained) / tokens,
    }


def mean_divergence(evidence: Mapping[str, Any], token_counts: Sequence[int]) -> float | None:
    """Return the mean KL per token of the certificate's block; None where a window has none. See above for errors."""
    counts = _kept_counts(evidence, token_counts)
    windows = exact_mapping(evidence.get("final"), "distribution.final", _WINDOW_KEYS)
    return _mean(_divergences(windows, len(counts)), counts)


def _mean(divergences: Sequence[float | None], counts: Sequence[int]) -> float | None:
    weighted = [kl * count for kl, count in zip(divergences, counts, strict=True) if kl is not None]
    return math.fsum(weighted) / sum(counts) if len(weighted) == len(counts) else None


def _kept_counts(evidence: Mapping[str, Any], token_counts: Sequence[int]) -> Sequence[int]:
    """Return the token counts of the windows that the plan keeps, having made the plan again."""
    where = "distribution.measurement"
    recorded = exact_mapping(evidence.get("measurement"), where, _MEASUREMENT_KEYS)
    if any(recorded[key] != value for key, value in _METHOD.items()):
        raise FormatError(f"{where}: expected {' and '.join(_METHOD.values())}")
    vocabulary, limit, top_k, size = (
        _whole(recorded.get(key), f"{where}.{key}", most)
        for key, most in (
            ("vocabulary", _MAX_VOCABULARY),
            ("cache_bytes_limit", 2**63),
            ("top_k", TOP_K),
            ("cache_bytes", 2**63),
        )
    )
    if vocabulary < 1 or not token_counts:
        raise FormatError(f"{where}: there is nothing to measure on {len(token_counts)} windows over {vocabulary} ids")
    try:
        plan = plan_cache(len(token_counts), max(token_counts), vocabulary, limit)
    except ConfigurationError as error:
        raise FormatError(f"{where}: {error}") from error
    if (top_k, size) != (plan.top_k, plan.bytes):
        raise FormatError(
            f"{where}: {top_k} log-probabilities in {size} bytes; the plan is {plan.top_k} in {plan.bytes} bytes"
        )
    return token_counts[: plan.windows]


def _divergences(windows: Mapping[str, Any], count: int) -> list[float | None]:
    where = "distribution.final.kl_mean"
    divergences = [None if kl is None else number(kl, where) for kl in _column(windows, "kl_mean", count)]
    if not all(kl is None or -ROUNDING <= kl <= _MAX_KL for kl in divergences):
        raise FormatError(f"{where}: a KL divergence is not negative, nor beyond what float32 holds")
    return divergences


def _totals(windows: Mapping[str, Any], counts: Sequence[int]) -> dict[str, int]:
    """Sum the counts over windows, after checking that they are possible in each."""
    columns = {
        key: [
            _whole(value, f"distribution.final.{key}", count)
            for value, count in zip(_column(windows, key, len(counts)), counts, strict=True)
        ]
        for key in _COUNTS
    }
    agreed, right, lost, gained = (columns[key] for key in _COUNTS)
    for index, count in enumerate(counts):
        # Only what was right can be lost, only what was wrong gained, and both take another choice than the baseline's.
        flipped = lost[index] + gained[index]
        if lost[index] > right[index] or gained[index] > count - right[index] or flipped > count - agreed[index]:
            raise FormatError(f"distribution.final: the counts of window {index} contradict each other")
    return {key: sum(column) for key, column in columns.items()}


def _check_extremes(
    evidence: Mapping[str, Any], divergences: Sequence[float | None], mean: float | None, tokens: int
) -> None:
    """Check that the extremes of single tokens, which can't be computed again, fit the means of windows."""
    quantile, largest = evidence.get("kl_q99"), evidence.get("kl_max")
    if mean is None:
        if quantile is not None or largest is not None:
            raise FormatError("distribution: kl_q99 and kl_max must be null where a window has no KL")
        return
    quantile, largest = number(quantile, "distribution.kl_q99"), number(largest, "distribution.kl_max")
    slack = ROUNDING * (1.0 + abs(largest))
    highest = max(kl for kl in divergences if kl is not None)
    # At most this share of the tokens lies above the 99 % quantile.
    above = min(1.0, (0.01 * (tokens - 1) + 1.0) / tokens)
    if not (
        -ROUNDING <= quantile <= largest + slack
        and highest <= largest + slack
        and largest <= _MAX_KL
        and mean <= quantile + above * (largest - quantile) + slack
    ):
        raise FormatError(
            f"distribution: kl_q99 {quantile!r} and kl_max {largest!r} are impossible with a mean of {mean!r} and a "
            f"window at {highest!r}"
        )


def _invalid_reason(evidence: Mapping[str, Any], invalid: bool) -> str | None:
    problem = evidence.get("problem", "absent")
    if problem not in (None, *PROBLEMS) or (problem is not None and not invalid):
        raise FormatError(
            f"distribution.problem: {problem!r:.40} is unknown, or the windows were measured all the same"
        )
    return problem or ("non_finite" if invalid else None)


def _column(windows: Mapping[str, Any], key: str, count: int) -> list[Any]:
    column = windows[key]
    if not isinstance(column, list) or len(column) != count:
        raise FormatError(f"distribution.final.{key}: expected a list of {count} numbers, one per window")
    return column


def _whole(value: object, where: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise FormatError(f"{where}: expected a whole number from 0 to {most}, found {value!r:.40}")
    return value


def _words(block: Block, _: Rules) -> Words:
    demanded = (
        f"mean KL from the baseline at most {words.limit(block['kl_mean_fail'])} nats per token (above "
        f"{words.limit(block['kl_mean_warn'])}: a warning)"
    )
    if block["kl_mean"] is None:
        return f"not comparable: {words.scalar(block['invalid_reason']).replace('_', ' ')}", demanded
    agreement = f"top-1 agreement {words.scalar(block['top1_agreement'])}"
    return f"mean KL at least {words.scalar(block['kl_mean'])}, {agreement}", demanded


DISTRIBUTION_GUARD = Guard(
    name="distribution",
    judges="the distribution of the next token",
    evidence=frozenset({"measurement", "final", "kl_q99", "kl_max", "problem"}),
    derive=lambda block, rules, case: derive_distribution(block, rules, case.final.counts),
    gates=(
        Gate(
            "distribution_acceptable",
            lambda block: block["passed"],
            _words,
            title="next-token distribution",
        ),
    ),
    signal=DISTRIBUTION,
    warnings={"distribution": lambda block: block["status"] == "warn"},
    section="distribution",
    tightens={"kl_mean_warn": "max", "kl_mean_fail": "max"},
    followed=("kl_mean", "top1_agreement"),
    strain=lambda block, rules: math.inf if block["kl_mean"] is None else block["kl_mean"] / rules["kl_mean_fail"],
    shared=Shared(
        sample=lambda block: {
            "plan of the distributions": block["measurement"],
            "tokens that the baseline gets right": block["final"]["baseline_right"],
        }
    ),
    null_numbers={"kl_mean": "kl_mean"},
)
