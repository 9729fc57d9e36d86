"""What each gate of a certificate measured and demanded, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.report import formatting

_NOT_GATES = frozenset({"hysteresis_applied", "moe_observed"})
_WARNINGS = {
    "primary_metric_acceptable": {"hysteresis_applied", "suspicious_improvement"},
    "primary_metric_tail_acceptable": {"primary_metric_tail"},
    "invariants_pass": {"invariants"},
    "spectral_stable": {"spectral"},
    "rmt_stable": {"variance"},
    "distribution": {"distribution"},
}


@dataclass(frozen=True)
class GateRow:
    """One line of the gates table.

    ``state`` is ``passed``, ``passed with a warning``, ``failed`` or ``not evaluated``.
    """

    name: str
    state: str
    measured: str
    demanded: str


def gate_rows(certificate: JsonObject) -> list[GateRow]:
    """List every gate the certificate could have, and every one it names as failed."""
    from pytest_proofpack.certificate.derive import GATES

    flags = [name for name in certificate["validation"] if name not in _NOT_GATES]
    names = formatting.unique([*GATES, *flags, "distribution", *certificate["outcome"]["failed_gates"]])
    return [_row(certificate, name) for name in names]


def _row(certificate: JsonObject, name: str) -> GateRow:
    flags = {**certificate["validation"], "distribution": certificate["distribution"]["passed"]}
    state = _state(name, flags, certificate["outcome"])
    measured, demanded = _WORDS.get(name, _other)(certificate)
    return GateRow(name, state, formatting.ABSENT if state == "not evaluated" else measured, demanded)


def _state(name: str, validation: Mapping[str, bool], outcome: JsonObject) -> str:
    if name in outcome["failed_gates"] or validation.get(name) is False:
        return "failed"
    if name not in validation:
        return "not evaluated"
    return "passed with a warning" if _WARNINGS.get(name, set()) & set(outcome["warnings"]) else "passed"


Words = tuple[str, str]


def _primary_metric(certificate: JsonObject) -> Words:
    metric, rules = certificate["primary_metric"], certificate["resolved_policy"]["primary_metric"]
    limit = rules["ratio_limit"]
    demanded = (
        f"ratio and its upper end at most {formatting.number(limit)} (hysteresis "
        f"{formatting.number(rules['hysteresis'])}), from at least {rules['min_tokens']:,} tokens and "
        f"{rules['replicates']:,} resamples"
    )
    evidence = f"from {metric['tokens']:,} tokens and {metric['reps']:,} resamples"
    if "ratio_vs_baseline" not in metric:
        return f"no ratio: {formatting.scalar(metric.get('degraded_reason'))}", demanded
    value = formatting.ratio(metric["ratio_vs_baseline"], limit)
    upper = formatting.ratio(metric["display_ci"][1], limit)
    return f"ratio {value}, upper end {upper}, {evidence}", demanded


def _tail(certificate: JsonObject) -> Words:
    tail, rules = certificate["primary_metric_tail"], certificate["resolved_policy"]["primary_metric_tail"]
    quantile = f"q{round(rules['quantile'] * 100)}"
    demanded = f"{quantile} of the loss differences at most {formatting.number(rules['quantile_max'])} nats per token"
    if rules["mode"] == "warn":
        demanded += " (above it: a warning)"
    if not tail["evaluated"]:
        return f"not evaluated: {formatting.scalar(tail.get('reason'))}", demanded
    return f"{quantile} {formatting.signed(tail['quantiles'][quantile])}", demanded


def _drift(certificate: JsonObject) -> Words:
    metric, rules = certificate["primary_metric"], certificate["resolved_policy"]["drift"]
    demanded = (
        f"final over preview perplexity, relative to the baseline's own, within "
        f"{formatting.number(rules['min'])} to {formatting.number(rules['max'])}"
    )
    if "relative_drift" not in metric:
        return f"no drift: {formatting.scalar(metric.get('degraded_reason'))}", demanded
    return formatting.ratio(metric["relative_drift"], rules["max"]), demanded


def _overhead(certificate: JsonObject) -> Words:
    tolerance = certificate["resolved_policy"]["guard_overhead"]["ratio_tolerance"]
    measured = formatting.scalar(certificate["guard_overhead"].get("overhead_ratio"))
    return f"ratio {measured}", f"perplexity with and without guards equal within {formatting.number(tolerance)}"


def _invariants(certificate: JsonObject) -> Words:
    block = certificate["invariants"]
    return f"fatal: {block['fatal_violations']}, warnings: {block['warning_violations']}", "no fatal violation"


def _spectral(certificate: JsonObject) -> Words:
    block, budget = certificate["spectral"], certificate["resolved_policy"]["spectral"]["max_caps"]
    measured = f"fatal violations: {block['fatal_violations']}, parameters with a budgeted one: {block['caps_applied']}"
    return measured, f"no fatal violation, at most {budget} parameters with a budgeted one"


def _rmt(certificate: JsonObject) -> Words:
    rmt, variance = certificate["rmt"], certificate["variance"]
    rules = certificate["resolved_policy"]["variance"]
    edges = [
        f"{family} edge {formatting.scalar(facts['ratio'])} of {formatting.number(1.0 + facts['epsilon'])}"
        for family, facts in rmt["families"].items()
    ]
    median = f"median abs ln of variance ratios {formatting.scalar(variance['median_log_ratio'])}"
    largest = f"largest variance ratio {formatting.scalar(variance['max_ratio'])}"
    demanded = (
        f"edge ratios within their allowance, variance ratios at most {formatting.number(rules['ratio_max'])}, their "
        f"median abs ln at most {formatting.number(rules['median_log_ratio_max'])}"
    )
    return ", ".join([*edges, median, largest]), demanded


def _distribution(certificate: JsonObject) -> Words:
    block = certificate["distribution"]
    demanded = (
        f"mean KL from the baseline at most {formatting.number(block['kl_mean_fail'])} nats per token (above "
        f"{formatting.number(block['kl_mean_warn'])}: a warning)"
    )
    if block["kl_mean"] is None:
        return f"not comparable: {formatting.scalar(block['invalid_reason'])}", demanded
    agreement = f"top-1 agreement {formatting.scalar(block['top1_agreement'])}"
    return f"mean KL at least {formatting.scalar(block['kl_mean'])}, {agreement}", demanded


def _moe(_: JsonObject) -> Words:
    return "see the moe block", "experts, routers and top-k unchanged"


def _other(_: JsonObject) -> Words:
    return "see its block", formatting.ABSENT


_WORDS: dict[str, Callable[[JsonObject], Words]] = {
    "primary_metric_acceptable": _primary_metric,
    "primary_metric_tail_acceptable": _tail,
    "preview_final_drift_acceptable": _drift,
    "guard_overhead_acceptable": _overhead,
    "invariants_pass": _invariants,
    "spectral_stable": _spectral,
    "rmt_stable": _rmt,
    "moe_identity_ok": _moe,
    "distribution": _distribution,
}
