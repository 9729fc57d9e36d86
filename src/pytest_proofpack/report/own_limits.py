"""What a page has to say of limits that the maker set in place of the tier's."""

from __future__ import annotations

from pytest_proofpack.certificate.limits import KEY, describe
from pytest_proofpack.certificate.policy import limits_beside
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError


def limits_words(certificate: JsonObject) -> str:
    """Return the maker's own limits in words, looser ones first; empty if there are none."""
    provenance = certificate["policy_provenance"]
    overrides = provenance["overrides"]
    if KEY not in overrides:
        return ""
    try:
        limits = limits_beside(provenance["tier"], certificate["meta"]["profile"], overrides)
    except ConfigurationError:  # verification says what is wrong with them
        return "own, which make no sense"
    return describe(limits, provenance["tier"])
