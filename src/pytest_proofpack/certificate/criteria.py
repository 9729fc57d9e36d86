"""What a certificate is judged by: the paired metric, its tail and its drift, and the guards, in this order.

The numbers of the metric's criteria are made by :mod:`pytest_proofpack.certificate.metric`.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from pytest_proofpack.common import words
from pytest_proofpack.guards.guard import METRIC, Block, Criterion, Gate, Rules, Words
from pytest_proofpack.guards.registry import GUARDS


def criteria(guards: Collection[str] | None = None) -> tuple[Criterion, ...]:
    """Return the metric's criteria and the package's own guards; those of a certificate's format, if named."""
    own = GUARDS.builtin
    return (*METRIC_CRITERIA, *(own[name] for name in own if guards is None or name in guards))


def gate_titles() -> dict[str, str]:
    """Return what every gate looks at, in words, by its flag; those of extensions too."""
    return {gate.flag: gate.title for judge in (*METRIC_CRITERIA, *GUARDS.values()) for gate in judge.gates}


def demanded_evidence(rules: Rules) -> str:
    """Return how many tokens a policy demands, and how many of the final windows; policies of format 1 only in all.

    Args:
        rules: the section ``primary_metric``.
    """
    in_all = f"at least {rules['min_tokens']:,} tokens"
    if "min_final_share" not in rules:
        return in_all
    tokens = math.ceil(rules["min_final_share"] * rules["min_tokens"])
    return f"{in_all}, {tokens:,} of them in at least {rules['min_final_windows']} final windows"


def _final(metric: Block) -> str:
    if "final_tokens" not in metric:
        return ""
    return f"{metric['final_tokens']:,} of them in {metric['final_windows']} final windows, "


def _reason(value: object) -> str:
    """Return why there is no number, in words: ``non_finite_loss`` is "non finite loss"."""
    return words.scalar(value).replace("_", " ")


def _metric_words(metric: Block, rules: Rules) -> Words:
    limit = rules["ratio_limit"]
    demanded = (
        f"ratio and its upper end at most {words.limit(limit)} (hysteresis "
        f"{words.limit(rules['hysteresis'])}), from {demanded_evidence(rules)}, {rules['replicates']:,} resamples"
    )
    evidence = f"from {metric['tokens']:,} tokens, {_final(metric)}{metric['reps']:,} resamples"
    if "ratio_vs_baseline" not in metric:
        return f"no ratio: {_reason(metric.get('degraded_reason'))}", demanded
    value = words.ratio(metric["ratio_vs_baseline"], limit)
    upper = words.ratio(metric["display_ci"][1], limit)
    return f"ratio {value}, upper end {upper}, {evidence}", demanded


def _tail_words(tail: Block, rules: Rules) -> Words:
    quantile, share = f"q{round(rules['quantile'] * 100)}", f"{round(rules['quantile'] * 100)} % of the windows"
    demanded = f"{share} lose at most {words.limit(rules['quantile_max'])} nats per token"
    if rules["mode"] == "warn":
        demanded += " (above it: a warning)"
    if not tail["evaluated"]:
        return f"not evaluated: {_reason(tail.get('reason'))}", demanded
    return f"{share} lost at most {words.number(tail['quantiles'][quantile])} nats per token", demanded


def _drift_words(metric: Block, rules: Rules) -> Words:
    demanded = (
        f"final over preview perplexity, relative to the baseline's own, within "
        f"{words.limit(rules['min'])} to {words.limit(rules['max'])}"
    )
    if "relative_drift" not in metric:
        return f"no drift: {_reason(metric.get('degraded_reason'))}", demanded
    return words.ratio(metric["relative_drift"], rules["max"]), demanded


def _metric_strain(metric: Block, rules: Rules) -> float:
    """Return what the interval's upper end takes of the room between no change and the limit."""
    if "ratio_vs_baseline" not in metric:
        return math.inf
    upper: float = max(metric["ratio_vs_baseline"], metric["display_ci"][1])
    return max(0.0, (upper - 1.0) / (float(rules["ratio_limit"]) - 1.0))


def _tail_strain(tail: Block, rules: Rules) -> float:
    """Return what the tail takes of its limit, where that is one and no warning alone."""
    return _tail_used(tail, rules) if rules["mode"] == "fail" else 0.0


def _tail_used(tail: Block, rules: Rules) -> float:
    """Return what the tail takes of its limit, be it one or a warning."""
    if "quantiles" not in tail:
        return math.inf
    worst: float = tail["quantiles"][f"q{round(rules['quantile'] * 100)}"]
    return max(0.0, worst / float(rules["quantile_max"]))


def _drift_strain(metric: Block, rules: Rules) -> float:
    if "relative_drift" not in metric:
        return math.inf
    drift = metric["relative_drift"]
    return float(max((drift - 1.0) / (rules["max"] - 1.0), (1.0 - drift) / (1.0 - rules["min"])))


METRIC_CRITERIA = (
    Criterion(
        name="primary_metric",
        judges="perplexity, subject over baseline",
        gates=(Gate("primary_metric_acceptable", lambda metric: metric["acceptable"], _metric_words, "perplexity"),),
        facts={"hysteresis_applied": lambda metric: metric["hysteresis_applied"]},
        signal=METRIC,
        warnings={
            "suspicious_improvement": lambda metric: metric.get("suspicious_improvement", False),
            "hysteresis_applied": lambda metric: metric["hysteresis_applied"],
        },
        section="primary_metric",
        tightens={
            "ratio_limit": "max",
            "hysteresis": "max",
            "min_tokens": "min",
            "min_final_share": "min",
            "min_final_windows": "min",
            "replicates": "min",
        },
        followed=("ratio_vs_baseline", "display_ci[0]", "display_ci[1]", "preview", "final"),
        strain=_metric_strain,
    ),
    Criterion(
        name="primary_metric_tail",
        judges="the windows that lost most",
        gates=(
            Gate(
                "primary_metric_tail_acceptable",
                lambda tail: tail["passed"],
                _tail_words,
                title="worst windows",
                used=_tail_used,
            ),
        ),
        warnings={"primary_metric_tail": lambda tail: tail["warned"] and tail["passed"]},
        section="primary_metric_tail",
        tightens={"quantile_max": "max"},
        followed=("quantiles.q99",),
        strain=_tail_strain,
    ),
    Criterion(
        name="drift",
        judges="final over preview perplexity",
        block="primary_metric",
        gates=(
            Gate(
                "preview_final_drift_acceptable",
                lambda metric: metric["drift_acceptable"],
                _drift_words,
                title="drift between two samples of the text",
            ),
        ),
        signal=METRIC,
        section="drift",
        tightens={"min": "min", "max": "max"},
        strain=_drift_strain,
    ),
)
