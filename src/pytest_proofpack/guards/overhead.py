"""The overhead guard: does measuring change what is measured?

Losses of the edited model on the first preview windows with the measurement's hooks at work, against the same forward
pass without any, in the same process: their perplexities must agree. What the measurements cost in time is no matter
of evidence and stands under ``volatile``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.activations import finite_or_none
from pytest_proofpack.guards.guard import Block, Gate, Guard, Rules, Words


def overhead_evidence(bare: Sequence[float]) -> JsonObject:
    """Return the evidence: the losses of the first preview windows, measured without hooks, in nats per token."""
    return {"mode": "measured", "bare_logloss": [finite_or_none(loss) for loss in bare]}


def derive_overhead(
    evidence: Mapping[str, Any], rules: Mapping[str, Any], observed: Sequence[float], token_counts: Sequence[int]
) -> JsonObject:
    """Compare the bare losses with those that the certificate is judged by.

    Args:
        evidence: of :func:`overhead_evidence`.
        rules: the policy section ``guard_overhead``.
        observed: losses of all preview windows, the first of them measured with hooks; NaN where not finite.
        token_counts: scored tokens of all preview windows.

    Raises:
        FormatError: the evidence is not what :func:`overhead_evidence` writes.
    """
    bare = evidence.get("bare_logloss")
    if not isinstance(bare, list) or not 1 <= len(bare) <= len(observed):
        raise FormatError(
            "guard_overhead.bare_logloss: expected a list of one loss per window, of some preview windows"
        )
    if not all(loss is None or (type(loss) in {int, float} and abs(loss) < 1e39) for loss in bare):
        raise FormatError("guard_overhead.bare_logloss: expected losses in nats, or null")
    block: JsonObject = {"evaluated": True, "mode": "measured", "windows": len(bare)}
    observed, token_counts = observed[: len(bare)], token_counts[: len(bare)]
    same_places = all((loss is None) == math.isnan(seen) for loss, seen in zip(bare, observed, strict=True))
    pairs = [
        (loss, seen, count)
        for loss, seen, count in zip(bare, observed, token_counts, strict=True)
        if loss is not None and not math.isnan(seen)
    ]
    tokens = sum(count for _, _, count in pairs)
    mean = math.fsum((seen - loss) * count for loss, seen, count in pairs) / tokens if pairs else 0.0
    ratio = math.exp(max(min(mean, 700.0), -700.0))
    passed = same_places and abs(ratio - 1.0) <= rules["ratio_tolerance"]
    return {**block, "overhead_ratio": ratio, "overhead_threshold": rules["ratio_tolerance"], "passed": passed}


def _words(block: Block, rules: Rules) -> Words:
    measured = f"ratio {words.scalar(block.get('overhead_ratio'))}"
    return measured, f"perplexity with and without guards equal within {words.limit(rules['ratio_tolerance'])}"


OVERHEAD_GUARD = Guard(
    name="guard_overhead",
    judges="whether measuring changes what is measured",
    evidence=frozenset({"mode", "bare_logloss"}),
    derive=lambda block, rules, case: derive_overhead(block, rules, case.preview.subject, case.preview.counts),
    gates=(
        Gate(
            "guard_overhead_acceptable",
            lambda block: block["passed"],
            _words,
            title="measuring itself",
        ),
    ),
    section="guard_overhead",
)
