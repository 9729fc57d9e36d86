"""Evidence of the guards as a mild edit leaves it, for certificates whose losses are made up."""

from __future__ import annotations

from pytest_proofpack.certificate.policy import Policy
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.activations import ActivationFacts, State, SublayerActivation
from pytest_proofpack.guards.contract import contract_hash
from pytest_proofpack.guards.direction_evidence import MatrixDirection, direction_evidence
from pytest_proofpack.guards.distribution import DistributionFacts, distribution_evidence, plan_cache
from pytest_proofpack.guards.generation import generation_evidence
from pytest_proofpack.guards.inventory import Inventory, ListedSublayer, ListedTensor
from pytest_proofpack.guards.label import label_evidence
from pytest_proofpack.guards.moe import moe_evidence
from pytest_proofpack.guards.overhead import overhead_evidence
from pytest_proofpack.guards.places import places_evidence
from pytest_proofpack.guards.readings import readings_evidence
from pytest_proofpack.guards.rmt import rmt_evidence
from pytest_proofpack.guards.spectral_evidence import MEASURED, SAME, MatrixChange, SpectralEvidence
from pytest_proofpack.guards.variance import variance_evidence
from pytest_proofpack.plan.records import WindowLosses, WindowSample

VOCABULARY = 64
INVENTORY = Inventory(
    tensors=(
        ListedTensor("block.0.attn.weight", "attn", 0, 1),
        ListedTensor("block.0.mlp.weight", "ffn", 0, 1),
    ),
    sublayers=(ListedSublayer("block.0.attn", "attn", 0), ListedSublayer("block.0.mlp", "ffn", 0)),
)
"""All that there is in the model of this evidence."""
USED = 50
"""How many of them the windows hold; predicting them by their frequencies gives a perplexity of 50."""


def mild_guards(policy: Policy, subject: WindowSample, *, edited: bool = True) -> dict[str, JsonObject]:
    """Return evidence that passes every guard.

    Args:
        policy: by which it is measured.
        subject: the subject's losses.
        edited: whether anything was changed.
    """
    before, after = _activations(policy, 1.0), _activations(policy, 1.01 if edited else 1.0)
    return {
        "spectral": _spectra(policy, edited=edited),
        "rmt": rmt_evidence(before, after),
        "variance": variance_evidence(before, after),
        "moe": moe_evidence(before, after),
        "distribution": distribution_evidence(_distribution(subject.final, edited=edited)),
        "direction": direction_evidence(
            [MatrixDirection("block.0.mlp.weight", "ffn", 0.99, 1.01, 0.0, 0.0)] if edited else [],
            [],
            [],
            {"block.0.attn": 1.0, "block.0.mlp": 0.99 if edited else 1.0},
        ),
        "places": places_evidence({}),
        "guard_overhead": overhead_evidence(subject.preview.losses[:2]),
        "label": label_evidence(None, None),
        "baseline_quality": evenly_used(sum(subject.final.token_counts)),
        "generation": generation_evidence(None, None),
        "readings": readings_evidence(),
    }


def evenly_used(scored: int, different: int = USED) -> JsonObject:
    """Return the evidence of the guard of the baseline's quality, of tokens that occur as often as one another."""
    often, more = divmod(scored, different)
    counts = {often: different - more, often + 1: more}
    return {"occurrences": [often for often in counts if counts[often]], "tokens": [n for n in counts.values() if n]}


def _spectra(policy: Policy, *, edited: bool) -> JsonObject:
    contract = policy.section("spectral")["measurement_contract"]
    name, group, baseline = "block.0.mlp.weight", "ffn", (4.0, 12.0)
    changed = MatrixChange(name, group, MEASURED, *baseline, 3.9, 11.8, 0.9, 1.1, 0.95, 1.05)
    matrices = (
        MatrixChange("block.0.attn.weight", "attn", SAME, 3.0, 9.0),
        changed if edited else MatrixChange(name, group, SAME, *baseline),
    )
    return SpectralEvidence(contract, contract_hash(contract), matrices, ()).to_json()


def _activations(policy: Policy, factor: float) -> ActivationFacts:
    sublayers = {
        "block.0.attn": SublayerActivation("attn", 0, State.MEASURED, 1.5 * factor, 0.4 * factor),
        "block.0.mlp": SublayerActivation("ffn", 0, State.MEASURED, 2.5 * factor, 0.6 * factor),
    }
    return ActivationFacts(policy.section("rmt")["measurement_contract"], "e" * 64, sublayers, {})


def _distribution(final: WindowLosses, *, edited: bool) -> DistributionFacts:
    count, scored = len(final.ids), final.token_counts[0]
    right, lost, gained = (scored // 2, scored // 50, scored // 60) if edited else (scored // 2, 0, 0)
    return DistributionFacts(
        plan=plan_cache(count, scored, VOCABULARY),
        kl_mean=[0.01 if edited else 0.0] * count,
        agreed=[scored - lost - gained] * count,
        baseline_right=[right] * count,
        right_to_wrong=[lost] * count,
        wrong_to_right=[gained] * count,
        kl_q99=0.1 if edited else 0.0,
        kl_max=0.5 if edited else 0.0,
    )
