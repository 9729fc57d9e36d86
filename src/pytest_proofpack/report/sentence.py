"""The first sentences of a certificate's page: what was done, what it cost, whether it holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.certificate.explain import NOT_CAUGHT, detector_words, outcome_words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.edit_kinds import EDITS, FAULTS, NOOP, words_of
from pytest_proofpack.plan.edit_specs import parse_scope
from pytest_proofpack.plan.records import Category, Strictness
from pytest_proofpack.plan.tool_edits import TOOL
from pytest_proofpack.report import formatting
from pytest_proofpack.report.gates import FAILED, NOT_APPLICABLE, NOT_EVALUATED, GateRow

ON_PURPOSE = (Category.STRESS.value, Category.ERROR.value)
"""Kinds of scenarios whose edit is meant to be seen."""
_MULTIPLE = 2.0
"""From here on a ratio says more than a percentage."""
_PERCENT = re.compile(r"(?:\.0)?%")


@dataclass(frozen=True)
class Headline:
    """What a reader sees first.

    Attributes:
        word: as :func:`pytest_proofpack.certificate.explain.outcome_words` has it, for example ``FAILED, not caught``.
        sign: ``good``, ``warn``, ``bad`` or none.
        sentences: in plain words, in the order in which they are to be read.
    """

    word: str
    sign: str
    sentences: tuple[str, ...]


def headline(certificate: JsonObject, gates: Sequence[GateRow], row: Mapping[str, Any] | None = None) -> Headline:
    """Return the outcome of a certificate in words.

    Args:
        certificate: the certificate.
        gates: its gates.
        row: what the verdict of its run says of it; None where it comes alone, so that nobody knows what is demanded.
    """
    word, meant = _alone(certificate) if row is None else _in_its_run(row)
    warned = word == "PASSED" and certificate["outcome"]["warnings"]
    first = word.partition(",")[0]
    sign = "warn" if warned else {"FAILED": "bad", "INFO": ""}.get(first, "good")
    sentences = [f"{formatting.sentence_case(_done(certificate))} {_cost(certificate)}", _likeness(certificate)]
    return Headline(word, sign, (*sentences, _gates(gates), *([meant] if meant else [])))


def edit_phrase(edit: JsonObject) -> str:
    """Return what an edit in memory did, as a noun with its parameters: ``rounding to 4 bits in groups of 32``."""
    record = EDITS.get(edit["type"])
    parameters = edit.get("parameters")
    if record is not None and record.phrase and isinstance(parameters, dict):
        try:
            return _PERCENT.sub(" %", record.phrase.format(**parameters))
        except (LookupError, TypeError, ValueError):  # a certificate may hold anything
            pass
    said = words_of(edit["type"]) or "an edit of an extension"
    return f"{edit['type']} ({said})"


def tool_phrase(edit: JsonObject) -> str:
    """Return what a tool did, as a noun: ``quantizing by torchao's recipe int4wo in groups of 32``."""
    group = edit.get("group")
    groups = f" in groups of {group}" if isinstance(group, int) else ""
    return f"quantizing by {edit.get('tool')}'s recipe {edit.get('recipe')}{groups}"


def scope_phrase(scope: object) -> str:
    """Return where an edit acted: ``in the feed-forward layers``; nothing where there is no scope."""
    if not isinstance(scope, str) or not scope:
        return ""
    try:
        parsed = parse_scope(scope)
    except ConfigurationError:
        return f"in {formatting.printable(scope)}"
    where = {"ffn": "feed-forward", "attn": "attention"}.get(parsed.group, "attention and feed-forward")
    if parsed.layer is not None:
        return f"in the {where} matrices of layer {parsed.layer}"
    if parsed.first_layers is not None:
        return f"in the {where} matrices of the first {formatting.counted(parsed.first_layers, 'layer')}"
    return f"in the {where} layers"


def _done(certificate: JsonObject) -> str:
    edit = certificate["provenance"]["edit"]
    said = files_say(certificate)
    if edit.get("source") == TOOL:
        return f"{tool_phrase(edit)}{f' ({said})' if said else ''}"
    if "source" in edit:
        return f"the checkpoint {edit.get('subject')}, edited elsewhere{f' ({said})' if said else ''},"
    if edit["type"] == NOOP:
        return "the unedited model, compared with itself,"
    if edit["type"] in FAULTS:
        return f"damage done on purpose ({words_of(edit['type'])})"
    where = scope_phrase(edit.get("scope"))
    return f"{edit_phrase(edit)}{f', {where},' if where else ''}"


def files_say(certificate: JsonObject) -> str:
    """Return what comparing the files of a checkpoint with the baseline's told, in a few words."""
    summary = certificate["structure"].get("summary")
    if summary is None:
        return ""
    changed, total = summary["changed"], summary["parameters"]
    if not any(summary[key] for key in ("changed", "added", "removed", "reshaped", "not_compared")):
        return f"all {formatting.counted(total, 'parameter')} as before"
    parts = [f"{changed:,} of {formatting.counted(total, 'parameter')} changed"]
    bits = sorted({group["bits"] for group in summary["families"].values() if group.get("bits") is not None})
    if bits:
        parts.append(f"about {' and '.join(map(str, bits))} {'bit' if bits == [1] else 'bits'}")
    words = {"removed": "missing", "added": "added", "reshaped": "of another shape", "not_compared": "not compared"}
    parts += [f"{summary[key]:,} {said}" for key, said in words.items() if summary[key]]
    return ", ".join(parts)


def _cost(certificate: JsonObject) -> str:
    metric, rules = certificate["primary_metric"], certificate["resolved_policy"]["primary_metric"]
    limit = float(rules["ratio_limit"])
    more = formatting.limit_percent(limit)
    room = f"{more} % more" if limit < _MULTIPLE else f"{formatting.limit(limit)} times as much"
    allowed = f"at most {room} is allowed"
    if "ratio_vs_baseline" not in metric:
        return f"left no perplexity that could be compared: {_not_finite(certificate)}. {allowed.capitalize()}."
    ratio, (low, high) = float(metric["ratio_vs_baseline"]), metric["display_ci"]
    level = f"{formatting.percent(metric['ci_level'])} % interval"
    if low == high == ratio == 1.0:
        return f"left perplexity exactly as it was; {allowed}."
    if max(ratio, high, limit) >= _MULTIPLE:
        ends = f"{formatting.ratio(low)} to {formatting.ratio(high, limit)}"
        return f"multiplied perplexity by {formatting.ratio(ratio, limit)} ({level} {ends}); {allowed}."
    margin = _margin(max(ratio, high), limit, rules["hysteresis"])
    return f"{_change(ratio, low, high, level)}; the limit is {more} %: {margin}."


def _change(ratio: float, low: float, high: float, level: str) -> str:
    """Return a change of perplexity; the ends have signs where they lie on both sides of none."""
    by = formatting.percent(abs(ratio - 1.0))
    if low >= 1.0 and ratio >= 1.0:
        return (
            f"raised perplexity by {by} % ({level} {formatting.percent(low - 1)} to {formatting.percent(high - 1)} %)"
        )
    if high <= 1.0 and ratio <= 1.0:
        ends = f"{formatting.percent(1 - high)} to {formatting.percent(1 - low)} %"
        return f"lowered perplexity by {by} % ({level} {ends})"
    ends = f"−{formatting.percent(1 - low)} to +{formatting.percent(high - 1)} %"
    return f"{'raised' if ratio >= 1 else 'lowered'} perplexity by {by} % ({level} {ends})"


def _margin(upper: float, limit: float, hysteresis: float) -> str:
    room = limit - upper
    if room >= 0:
        return f"{formatting.percent(room)} points to spare" if room > 0 else "nothing to spare"
    over = f"{formatting.percent(-room)} points above it"
    return f"{over}, within the hysteresis" if upper <= limit + hysteresis else over


def _not_finite(certificate: JsonObject) -> str:
    """Return on how many windows there was no finite loss, or that the perplexity is too large a number."""
    windows = certificate["evaluation_windows"]
    counts = {name: (side["logloss"].count(None), len(side["logloss"])) for name, side in windows.items()}
    found = [f"{count} of {total} {name} windows" for name, (count, total) in counts.items() if count]
    return f"the loss is not finite on {' and '.join(found)}" if found else "it is too large a number"


def _likeness(certificate: JsonObject) -> str:
    """Return how much of the next-token distribution was kept."""
    block = certificate["distribution"]
    divergence, agreement = (formatting.finite(block.get(key)) for key in ("kl_mean", "top1_agreement"))
    if divergence is None:
        return "Its predictions could not be compared token by token."
    kept = "" if agreement is None else f"; {formatting.percent(agreement, 1.0)} % of the top tokens are kept"
    return f"KL divergence {formatting.number(divergence)} nats per token{kept}."


def _gates(gates: Sequence[GateRow]) -> str:
    failed = [gate.title for gate in gates if gate.state == FAILED]
    judged = sum(gate.state not in (NOT_EVALUATED, NOT_APPLICABLE) for gate in gates)
    if failed:
        verb = "fails" if len(failed) == 1 else "fail"
        return f"{len(failed)} of {formatting.counted(judged, 'gate')} {verb}: {', '.join(failed)}."
    warned = [gate.title for gate in gates if gate.warned]
    return f"All {judged} gates hold{f', with a warning: {formatting.listing(warned)}' if warned else ''}."


def _in_its_run(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the outcome by what its scenario demands, and what was demanded where failing gates do not say it."""
    strictness = Strictness(row["strictness"])
    word = outcome_words(strictness, passed=row["passed"], as_expected=row["as_expected"])
    if strictness is Strictness.INFORMATIONAL:
        return word, "It is here for information, and never part of the verdict."
    if strictness is Strictness.MUST_PASS:
        different = row["passed"] and not row["as_expected"]
        return word, "It was to be the baseline itself, without any difference, and is not." if different else ""
    seen = formatting.unique(map(detector_words, row["detectors_fired"]))
    if row["as_expected"]:
        return word, f"This damage was meant to be noticed, and was: {', '.join(seen)}."
    by = f"only {', '.join(seen)} saw it" if seen else "none of the detectors that its scenario lists saw it"
    return word, f"This damage was meant to be noticed and was {NOT_CAUGHT}: {by}."


def _alone(certificate: JsonObject) -> tuple[str, str]:
    """Return the outcome as far as gates tell it."""
    passed, category = bool(certificate["outcome"]["passed"]), certificate["scenario"]["category"]
    if category not in ON_PURPOSE:
        return "PASSED" if passed else "FAILED", ""
    what = "A stress edit" if category == Category.STRESS.value else "An injected error"
    meant = f"{what} is meant to be noticed: here a failure may be just what is wanted. The run's verdict decides."
    return ("INFO, gates hold" if passed else "CAUGHT"), meant
