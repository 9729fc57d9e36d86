"""What tuning reads off a certificate: gates, the numbers that people compare, and how near each limit is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.foreign import FOREIGN
from pytest_proofpack.guards.guard import Block, Criterion, Rules
from pytest_proofpack.guards.registry import GUARDS
from pytest_proofpack.plan.climbing import Reading


def reading_of(certificate: Mapping[str, Any]) -> Reading:
    """Return what a certificate reads."""
    metric = certificate["primary_metric"]
    measured = "ratio_vs_baseline" in metric
    return Reading(
        failed_gates=tuple(certificate["outcome"]["failed_gates"]),
        strains={
            criterion.name: float(criterion.strain(block, rules))
            for criterion, block, rules in _judged(certificate)
            if criterion.strain is not None
        },
        ratio=metric["ratio_vs_baseline"] if measured else None,
        interval=tuple(metric["display_ci"]) if measured else None,
        kl_mean=certificate["distribution"]["kl_mean"],
    )


def _judged(certificate: Mapping[str, Any]) -> Iterator[tuple[Criterion, Block, Rules]]:
    """Yield every criterion with the block and the thresholds that it was judged by."""
    policy = certificate["resolved_policy"]
    for criterion in criteria():
        yield criterion, certificate[criterion.block], policy[criterion.section] if criterion.section else {}
    for name, block in certificate.get(FOREIGN, {}).items():
        yield GUARDS.added[name], block["derived"], block["policy"]
