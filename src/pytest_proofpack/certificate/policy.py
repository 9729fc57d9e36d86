"""Policy tiers: the thresholds a certificate is judged by, their digest, and what counts as looser than a tier.

Tiers and profiles are data (``data/tiers.json``): a profile is what it demands beyond any tier. A certificate records
the resolved policy, so that anyone can judge its evidence again; verification refuses a policy that claims a tier's
name but is looser than it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject, parse_json, sha256_of
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.activations import activation_contract
from pytest_proofpack.guards.spectral import measurement_contract

# How a threshold may differ from its tier's without being looser: "max" may be lower, "min" may be higher.
# Everything that is not named here must be equal.
_TIGHTER = {
    "primary_metric.ratio_limit": "max",
    "primary_metric.hysteresis": "max",
    "primary_metric.min_tokens": "min",
    "primary_metric.replicates": "min",
    "primary_metric_tail.quantile_max": "max",
    "drift.min": "min",
    "drift.max": "max",
    "distribution.kl_mean_warn": "max",
    "distribution.kl_mean_fail": "max",
    "spectral.sigma_ratio_max": "max",
    "spectral.stable_rank_ratio_min": "min",
    "spectral.row_ratio_min": "min",
    "spectral.max_caps": "max",
    "variance.ratio_max": "max",
    "variance.median_log_ratio_max": "max",
}


@dataclass(frozen=True)
class Policy:
    """A resolved policy.

    Attributes:
        tier: the tier's name.
        version: version of the tier table.
        thresholds: every threshold by section, as a certificate records it under ``resolved_policy``.
        overrides: what differs from the tier and why: the profile's demands.
    """

    tier: str
    version: str
    thresholds: JsonObject
    overrides: JsonObject = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the policy's canonical JSON."""
        return policy_digest(self.thresholds, self.overrides)

    def section(self, name: str) -> JsonObject:
        """Return the thresholds of one section, for example ``"primary_metric"``."""
        section: JsonObject = self.thresholds[name]
        return section


def policy_digest(resolved_policy: Mapping[str, Any], overrides: Mapping[str, Any]) -> str:
    """Return the digest of a policy: SHA-256 of its canonical JSON, first 16 hexadecimal digits."""
    return sha256_of({"resolved_policy": resolved_policy, "overrides": overrides})[:16]


def resolve_policy(tier: str, profile: str = "dev") -> Policy:
    """Return the policy of a tier under a profile: thresholds, and how the numbers that they judge are measured.

    Raises:
        ConfigurationError: there is no such tier or profile.
    """
    table = _tier_table()
    if tier not in table["tiers"]:
        raise ConfigurationError(f"unknown policy tier {tier!r}; choose one of {', '.join(table['tiers'])}")
    if profile not in table["profiles"]:
        raise ConfigurationError(f"unknown profile {profile!r}; choose one of {', '.join(table['profiles'])}")
    thresholds = copy.deepcopy(table["tiers"][tier])
    demands: JsonObject = table["profiles"][profile]
    for section, values in demands.items():
        thresholds[section] |= values
    thresholds["spectral"]["measurement_contract"] = measurement_contract(thresholds["spectral"])
    thresholds["rmt"]["measurement_contract"] = activation_contract()
    return Policy(tier, table["policy_version"], thresholds, {profile: demands} if demands else {})


def looser_than_tier(tier: str, resolved_policy: Mapping[str, Any], profile: str = "dev") -> list[str]:
    """Name every threshold of ``resolved_policy`` that is missing, unknown or looser than tier and profile demand.

    Raises:
        ConfigurationError: there is no such tier or profile.
    """
    reference = _flatten(resolve_policy(tier, profile).thresholds)
    recorded = _flatten(resolved_policy)
    added = "" if profile == "dev" else f" in profile {profile}"
    findings = [f"{'.'.join(path)} is missing" for path in sorted(reference.keys() - recorded.keys())]
    findings += [f"{'.'.join(path)} is unknown" for path in sorted(recorded.keys() - reference.keys())]
    findings += [
        f"{'.'.join(path)} is {recorded[path]!r}, the {tier} tier{added} has {reference[path]!r}"
        for path in sorted(reference.keys() & recorded.keys())
        if not _as_strict(_TIGHTER.get(".".join(path)), recorded[path], reference[path])
    ]
    return findings


def _as_strict(direction: str | None, value: object, reference: Any) -> bool:
    if direction is None:
        # Of one type too: 0, 0.0 and False are equal, but a measurement contract has another hash with each.
        return type(value) is type(reference) and value == reference
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return bool(value <= reference if direction == "max" else value >= reference)


def _flatten(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the leaves by their path: a tuple, because a hostile key may hold dots."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, (*prefix, key)))
        else:
            flat[*prefix, key] = value
    return flat


@cache
def _tier_table() -> JsonObject:
    data = resources.files("pytest_proofpack").joinpath("data/tiers.json").read_bytes()
    return parse_json(data, "tiers.json")
