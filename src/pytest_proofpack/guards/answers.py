"""The answers guard: does every sublayer answer the same tokens as the baseline's does, and the model as a whole?

It has no evidence of its own: it reads what was measured in the forward passes for other guards. The answers are
those of :mod:`pytest_proofpack.measures.responses`, recorded under ``direction``. One that fell shows damage without a
look at any weight. Where none fell, no distribution moved and no output has another scale, the edit kept the function,
and weights that read differently (permuted, rotated, rescaled and scaled back) need not be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_proofpack.common import words
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.activations import paired_sublayers
from pytest_proofpack.guards.direction_evidence import Number, SublayerWeights, read_answers
from pytest_proofpack.guards.distribution import mean_divergence
from pytest_proofpack.guards.guard import ANSWERS, NAMES_SHOWN, Block, Case, Gate, Guard, Rules, Words, share_below_one
from pytest_proofpack.guards.moe import fewest_uses


def derive_answers(_: Block, rules: Rules, case: Case) -> JsonObject:
    """Judge what sublayers answered, by the ``answers`` section of a policy.

    A sublayer that has no answer, or one below ``answer_min``, fails. ``left_out_max`` of them may, if only something
    was left out of their matrices: a single layer at low rank is a clean edit.

    Raises:
        FormatError: the evidence is not what the guards on directions, variance, distributions and routers write.
    """
    answers, weights = read_answers(case.blocks["direction"])
    fallen = [name for name, value in answers.items() if value is None or value < rules["answer_min"]]
    excused = [name for name in fallen if _only_left_out(answers[name], weights.get(name), rules)]
    if len(excused) > rules["left_out_max"]:
        excused = []
    assert case.function_changed is not None  # measured before any guard is judged: some ask for it
    measured = [value for value in answers.values() if value is not None]
    return {
        "evaluated": bool(answers),
        "passed": bool(answers) and len(excused) == len(fallen),
        "answer_min": min(measured, default=None),
        "fallen": len(fallen),
        "fallen_names": fallen[:NAMES_SHOWN],
        "excused": excused,
        "function_kept": not case.function_changed,
        "function_changed": list(case.function_changed),
    }


def _only_left_out(answer: Number, weights: SublayerWeights | None, rules: Rules) -> bool:
    """Tell whether a sublayer that answers less than before has matrices that only had something left out."""
    if answer is None or weights is None:
        return False
    return all(kept is not None and abs(kept - 1.0) <= rules["left_out_tolerance"] for kept in weights)


def function_changed(blocks: Mapping[str, Any], rules: Rules, counts: Sequence[int]) -> list[str]:
    """Return in what a model differs from its baseline as a function, on the text; empty where the function was kept.

    That is asked of the model (the mean divergence), of every sublayer (its answer; the scale of its output, which the
    answer does not show) and of the text: an expert that it hardly used was not seen.

    Args:
        blocks: the certificate's evidence.
        rules: the guard's section of the policy.
        counts: scored tokens of the final windows.
    """
    divergence = mean_divergence(blocks["distribution"], counts)
    answers, _ = read_answers(blocks["direction"])
    sublayers = paired_sublayers(blocks["variance"], "variance")
    most = math.log(rules["kept_variance_ratio_max"])
    findings = {
        "divergence": divergence is None or divergence > rules["kept_kl_max"],
        "answers": not answers or any(value is None or value < rules["kept_answer_min"] for value in answers.values()),
        "variance": not sublayers or any(own.problem or abs(own.log_ratio) > most for own in sublayers),
        "experts": fewest_uses(blocks["moe"]) < rules["kept_expert_uses_min"],
    }
    return [name for name, found in findings.items() if found]


def _words(block: Block, rules: Rules) -> Words:
    demanded = f"every sublayer's answer to the same tokens at least {words.limit(rules['answer_min'])} of 1"
    if not block["evaluated"]:
        return "no sublayer was watched", demanded
    measured = f"smallest answer {words.scalar(block['answer_min'])}"
    if block["fallen"]:
        names = ", ".join(words.printable(name) for name in block["fallen_names"])
        measured += f"; sublayers below the limit, or without an answer: {block['fallen']} ({names})"
    return measured, demanded


ANSWERS_GUARD = Guard(
    name="answers",
    judges="whether sublayers answer the same tokens as before",
    evidence=frozenset(),
    derive=derive_answers,
    gates=(
        Gate(
            "answers_kept",
            lambda block: block["passed"],
            _words,
            title="answers of sublayers",
            used=lambda block, rules: share_below_one(block["answer_min"], rules["answer_min"]),
        ),
    ),
    signal=ANSWERS,
    section="answers",
    tightens={"answer_min": "min", "left_out_max": "max"},
)
