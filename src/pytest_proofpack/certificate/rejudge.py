"""A certificate under another policy: its gates again, from its evidence. No model is needed."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_proofpack.certificate.build import merge
from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.certificate.foreign import FOREIGN
from pytest_proofpack.certificate.formats import FORMAT_1, format_of
from pytest_proofpack.certificate.limits import limit_names
from pytest_proofpack.certificate.policy import Policy, policy_digest
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError

MEASURED_BY = ("direction.lost_share_max",)
"""Limits by which it was decided what to measure: with another one other rows would have been compared."""


@dataclass(frozen=True)
class Rejudged:
    """A certificate under another policy.

    Attributes:
        certificate: the certificate with the other policy, and what follows from it; its digest is the old one's, for
            nobody has issued this. None if it cannot be judged again.
        kept: what was judged as before, and why, a line each.
    """

    certificate: JsonObject | None
    kept: tuple[str, ...]


def rejudge(certificate: JsonObject, policy: Policy, profile: str) -> Rejudged:
    """Judge a certificate by another policy.

    Args:
        certificate: one that verifies.
        policy: the other policy.
        profile: the profile that it was resolved with.
    """
    form = format_of(certificate)
    thresholds, kept = _thresholds(certificate, policy)
    overrides = policy.overrides if form is not FORMAT_1 else {}
    asked: JsonObject = {
        **certificate,
        "resolved_policy": thresholds,
        "policy_provenance": {
            "tier": policy.tier,
            "policy_version": policy.version,
            "overrides": overrides,
            "policy_digest": policy_digest(thresholds, overrides, form.sha256),
        },
        "meta": {**certificate["meta"], "profile": profile},
        "dataset": _resampled(certificate["dataset"], thresholds["primary_metric"]),
    }
    try:
        return Rejudged(merge(asked, derive(asked)), kept)
    except FormatError as error:
        return Rejudged(None, (*kept, str(error)))


def _thresholds(certificate: JsonObject, policy: Policy) -> tuple[JsonObject, tuple[str, ...]]:
    """Return the other policy as far as the evidence can be judged by it, and what stays as it was.

    Of the thresholds that nobody may set (how things are measured, what counts as kept) a certificate keeps its own.
    """
    recorded, wanted = certificate["resolved_policy"], format_of(certificate).demands(policy.thresholds)
    kept: list[str] = []
    thresholds = {section: dict(values) for section, values in recorded.items()}
    for name in limit_names():
        section, key = name.split(".")
        if section not in recorded or key not in recorded[section] or recorded[section][key] == wanted[section][key]:
            continue
        if name in MEASURED_BY:
            kept.append(f"{name} stays {recorded[section][key]}: it decided what was measured")
        else:
            thresholds[section][key] = wanted[section][key]
    for section, values in wanted.items():
        fixed = [key for key in values if f"{section}.{key}" not in limit_names()]
        different = [key for key in fixed if section in recorded and recorded[section].get(key) != values[key]]
        thresholds.get(section, {}).update({key: values[key] for key in different if _only_recorded(section, key)})
        kept += [f"{section}.{key} stays as it was measured" for key in different if not _only_recorded(section, key)]
    guards = [f"{FOREIGN}.{name} is judged by its own limits" for name in sorted(certificate.get(FOREIGN, {}))]
    return thresholds, (*kept, *guards)


def _only_recorded(section: str, key: str) -> bool:
    """Tell whether a threshold gates nothing: z-scores by family are told, and no more."""
    return (section, key) == ("spectral", "family_caps")


def _resampled(dataset: JsonObject, rules: JsonObject) -> JsonObject:
    """Return the block with the policy's own number of resamples; the interval is made anew from the losses."""
    windows = dataset["windows"]
    stats = windows["stats"]
    bootstrap = {**stats["bootstrap"], "replicates": rules["replicates"], "alpha": rules["alpha"]}
    return {**dataset, "windows": {**windows, "stats": {**stats, "bootstrap": bootstrap}}}
