"""Verifying one certificate by itself: every number in it is recomputed from its evidence."""

from __future__ import annotations

from pytest_proofpack.certificate.contradictions import contradictions
from pytest_proofpack.certificate.derive import STRUCTURE_EVIDENCE, derive, differences, surplus
from pytest_proofpack.certificate.foreign import FOREIGN, foreign_policy_findings, known_blocks, unknown_guards
from pytest_proofpack.certificate.formats import CURRENT, certificate_digest, format_of
from pytest_proofpack.certificate.limits import KEY, read_limits
from pytest_proofpack.certificate.policy import looser_than_tier, policy_digest, resolve_policy
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.guards.registry import GUARDS

WHOLLY_DERIVED = (
    "primary_metric", "primary_metric_tail", "baseline_ref", "validation", "policy_digest", "outcome",
)  # fmt: skip
"""Blocks that hold nothing but what follows from the evidence."""
_MAX_FINDINGS = 100
_FINDING_LENGTH = 400


def check_certificate(certificate: JsonObject, *, allow_unknown_guards: bool = False) -> list[str]:
    """Verify one certificate by itself: schema, digest, policy, and every number that follows from its evidence.

    Args:
        certificate: the parsed document.
        allow_unknown_guards: whether guards of extensions that are not registered here may stand on the maker's word;
            else each is a finding.

    Returns:
        One line per finding, each naming the field; an empty list means that everything holds.
    """
    return certificate_findings(certificate) or recompute_certificate(
        certificate, allow_unknown_guards=allow_unknown_guards
    )


def recompute_certificate(certificate: JsonObject, *, allow_unknown_guards: bool = False) -> list[str]:
    """Do what :func:`check_certificate` does, for a certificate that is known to fit its schema."""
    findings = [] if allow_unknown_guards else unknown_guards(certificate)
    try:
        if certificate["certificate_digest"] != certificate_digest(certificate):
            findings.append("certificate_digest: does not match the content")
        findings += _policy_findings(certificate)
        derived = derive(certificate)
    except FormatError as error:
        findings.append(f"cannot be recomputed: {error}")
    else:
        differing = differences(certificate, derived) + _unsupported(certificate, derived)
        findings += differing or contradictions(certificate)
    return [finding[:_FINDING_LENGTH] for finding in findings[:_MAX_FINDINGS]]


def _unsupported(certificate: JsonObject, derived: JsonObject) -> list[str]:
    """Name every key of a derived block or of a guard's that is neither derived nor evidence."""
    blocks = {block: certificate[block] for block in WHOLLY_DERIVED}
    own = format_of(certificate).guards
    evidence = {name: guard.evidence for name, guard in GUARDS.builtin.items() if own is None or name in own}
    for block, keys in {**evidence, "structure": STRUCTURE_EVIDENCE}.items():
        blocks[block] = {key: value for key, value in certificate[block].items() if key not in keys}
    findings = [finding for block, recorded in blocks.items() for finding in surplus(recorded, derived[block], block)]
    for name, half in known_blocks(certificate):
        findings += surplus(half, derived[FOREIGN][name], f"{FOREIGN}.{name}")
    return findings


def _policy_findings(certificate: JsonObject) -> list[str]:
    provenance = certificate["policy_provenance"]
    policy, form = certificate["resolved_policy"], format_of(certificate)
    try:
        tier, profile = provenance["tier"], certificate["meta"]["profile"]
        known = resolve_policy(tier, profile)
    except ConfigurationError as error:
        return [f"policy_provenance.tier: {error}"]
    own = provenance["overrides"].get(KEY) if form is CURRENT else None  # format 1 had none
    try:
        own = None if own is None else read_limits(own, known.thresholds, KEY)
    except ConfigurationError as error:
        return [f"policy_provenance.overrides.{error}"]
    loose = looser_than_tier(tier, policy, profile, form.guards, form.demands, limits=own)
    findings = [f"resolved_policy.{finding}" for finding in loose]
    findings += _override_findings(provenance["overrides"], {**known.overrides, **({KEY: own} if own else {})})
    if provenance["policy_version"] != known.version:
        version = provenance["policy_version"]
        findings.append(f"policy_provenance.policy_version: {version!r}, known is {known.version!r}")
    if provenance["policy_digest"] != policy_digest(policy, provenance["overrides"], form.sha256):
        findings.append("policy_provenance.policy_digest: does not match the recorded policy")
    return findings + foreign_policy_findings(certificate)


def _override_findings(recorded: JsonObject, known: JsonObject) -> list[str]:
    """Name every override that is neither the profile's nor a limit; a free text there could be tried for a digest."""
    return [
        f"policy_provenance.overrides.{key}: is not what this profile and limits of one's own come to"
        for key in sorted(recorded.keys() | known.keys())
        if compact_json(recorded.get(key)) != compact_json(known.get(key))
    ]
