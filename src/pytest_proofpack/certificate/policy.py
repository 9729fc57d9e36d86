"""Policy tiers: the thresholds a certificate is judged by, their digest, and what counts as looser than a tier.

Tiers and profiles are data (``data/tiers.json``): a profile is what it demands beyond any tier. A certificate records
the resolved policy, so that anyone can judge its evidence again; verification refuses a policy that claims a tier's
name but is looser than it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.limits import KEY, OwnLimit, own_limits, read_limits, with_limits
from pytest_proofpack.common.strict_json import JsonObject, parse_json, sha256_of
from pytest_proofpack.common.words import limit
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.registry import GUARDS


@dataclass(frozen=True)
class Policy:
    """A resolved policy.

    Attributes:
        tier: the tier's name.
        version: version of the tier table.
        thresholds: every threshold by section, as a certificate records it under ``resolved_policy``.
        overrides: what differs from the tier and why: the profile's demands, and under ``limits`` one's own limits.
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


def policy_words(tier: str, profile: str, thresholds: Mapping[str, Any]) -> str:
    """Return in a few words what a certificate is judged by: ``tier balanced, ratio at most 1.1``."""
    profiled = "" if profile == "dev" else f", profile {profile}"
    return f"tier {tier}{profiled}, ratio at most {limit(thresholds['primary_metric']['ratio_limit'])}"


def policy_digest(
    resolved_policy: Mapping[str, Any], overrides: Mapping[str, Any], sha256: Callable[[object], str] = sha256_of
) -> str:
    """Return the digest of a policy: SHA-256 of its canonical JSON, first 16 hexadecimal digits."""
    return sha256({"resolved_policy": resolved_policy, "overrides": overrides})[:16]


def resolve_policy(
    tier: str, profile: str = "dev", limits: Mapping[str, Any] | None = None, source: str = "limits"
) -> Policy:
    """Return the policy of a tier under a profile: thresholds, and how the numbers that they judge are measured.

    Args:
        tier: its name.
        profile: its name.
        limits: one's own, which take the place of tier's and profile's.
        source: how messages name where these are from.

    Raises:
        ConfigurationError: there is no such tier, profile or limit, or a limit makes no sense.
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
    own = read_limits(limits, thresholds, source) if limits else {}
    thresholds = with_limits(thresholds, own)
    for guard in GUARDS.builtin.values():
        if guard.section is not None and guard.contract is not None:
            section = thresholds[guard.section]
            section["measurement_contract"] = guard.contract(section)
    overrides = {**({profile: demands} if demands else {}), **({KEY: own} if own else {})}
    return Policy(tier, table["policy_version"], thresholds, overrides)


def limits_beside(tier: str, profile: str, overrides: Mapping[str, Any]) -> tuple[OwnLimit, ...]:
    """Return the own limits that a policy records, each beside a tier's.

    Raises:
        ConfigurationError: there is no such tier or profile, or they are no limits.
    """
    thresholds = resolve_policy(tier, profile).thresholds
    return own_limits(read_limits(overrides.get(KEY, {}), thresholds, KEY), thresholds)


def looser_than_tier(
    tier: str,
    resolved_policy: Mapping[str, Any],
    profile: str = "dev",
    guards: Collection[str] | None = None,
    demands: Callable[[JsonObject], JsonObject] = lambda thresholds: thresholds,
    *,
    limits: Mapping[str, Any] | None = None,
) -> list[str]:
    """Name every threshold of ``resolved_policy`` that is missing, unknown or looser than tier and profile demand.

    Args:
        tier: the tier that the policy claims.
        resolved_policy: the policy.
        profile: the profile that it claims.
        guards: the guards of the certificate's format; None for all of the package's own.
        demands: turns what the tier demands into what it demanded of certificates of that format.
        limits: the own limits that the policy says it has, which take the place of the tier's.

    Raises:
        ConfigurationError: there is no such tier, profile or limit, or a limit makes no sense.
    """
    judges = {criterion.section: criterion for criterion in criteria(guards) if criterion.section is not None}
    thresholds = demands(resolve_policy(tier, profile, limits).thresholds)
    reference = {section: thresholds[section] for section in judges if section in thresholds}
    tightens = {f"{name}.{key}": way for name, judge in judges.items() for key, way in judge.tightens.items()}
    added = "" if profile == "dev" else f" in profile {profile}"
    own = ", with the limits that it states," if limits else ""
    return looser_than(reference, resolved_policy, tightens, f"the {tier} tier{added}{own}")


def looser_than(
    reference: Mapping[str, Any], recorded: Mapping[str, Any], tightens: Mapping[str, str], whose: str
) -> list[str]:
    """Name every threshold of ``recorded`` that is missing, unknown, or looser than that of ``reference``.

    Args:
        reference: the thresholds that are demanded.
        recorded: those that were used.
        tightens: by dotted path, how a threshold may differ without being looser: ``"max"`` may be lower, ``"min"``
            higher. Everything that is not named must be equal.
        whose: whose the demanded thresholds are, for the message.
    """
    wanted, found = _flatten(reference), _flatten(recorded)
    findings = [f"{'.'.join(path)} is missing" for path in sorted(wanted.keys() - found.keys())]
    findings += [f"{'.'.join(path)} is unknown" for path in sorted(found.keys() - wanted.keys())]
    findings += [
        f"{'.'.join(path)} is {found[path]!r}, {whose} has {wanted[path]!r}"
        for path in sorted(wanted.keys() & found.keys())
        if not _as_strict(tightens.get(".".join(path)), found[path], wanted[path])
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
