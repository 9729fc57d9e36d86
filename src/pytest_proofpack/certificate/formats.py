"""Formats of certificates, and the digest of a certificate, which is over the canonical form of its format.

A certificate says its own format: ``certificate_format``, which format 1 did not have. ``schema_version`` is the name
of InvarLock 0.3.7's schema, which ours has been a superset of from the beginning. A pack's format is the
``schema_version`` of its manifest.

Once a format has been released, its guards are written down here: a guard that the package gets later would be missing
in every certificate of before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.certificate import format1
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.errors import FormatError

SCHEMA_VERSION = "v1"
OUTSIDE_DIGEST = ("volatile", "certificate_digest")


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        number: as under ``certificate_format``.
        sha256: the digest of a JSON value, over the format's canonical form.
        schema: name of the packaged schema.
        scenarios: name of the packaged schema of a pack's scenarios.
        guards: names of the package's guards whose blocks it has; None for all that there are.
        inventory: whether it lists what there is to be judged, and demands that every guard judged all of it.
        demands: turns what a tier demands today into what it demanded of this format.
        adapted: turns what is derived today into what the format records.
        verdict: turns today's verdict into what the format records.
    """

    number: int
    sha256: Callable[[object], str]
    schema: str
    scenarios: str = "scenarios"
    guards: tuple[str, ...] | None = None
    inventory: bool = True
    demands: Callable[[JsonObject], JsonObject] = lambda thresholds: thresholds
    adapted: Callable[[JsonObject], JsonObject] = lambda derived: derived
    verdict: Callable[[JsonObject], JsonObject] = lambda verdict: verdict


FORMAT_1 = Format(
    1,
    format1.sha256_of,
    format1.SCHEMA,
    format1.SCENARIOS,
    format1.GUARDS,
    inventory=False,
    demands=format1.demands,
    adapted=format1.as_format1,
    verdict=format1.verdict_of_format1,
)
CURRENT = Format(2, sha256_of, "certificate")
FORMATS = {known.number: known for known in (FORMAT_1, CURRENT)}


def format_of(certificate: Mapping[str, Any]) -> Format:
    """Return the format that a certificate says it has.

    Raises:
        FormatError: it is not known here.
    """
    number = certificate.get("certificate_format", FORMAT_1.number)
    if type(number) is not int or number not in FORMATS or (number == 1 and "certificate_format" in certificate):
        raise FormatError(
            f"certificate_format: {number!r:.40} is not known; a later version of pytest-proofpack may know it"
        )
    return FORMATS[number]


def certificate_digest(certificate: Mapping[str, Any]) -> str:
    """Return the hexadecimal SHA-256 of the canonical certificate without ``volatile`` and the digest itself.

    Raises:
        FormatError: its format is not known, or its canonical form can't be written.
    """
    body = {key: value for key, value in certificate.items() if key not in OUTSIDE_DIGEST}
    return format_of(certificate).sha256(body)


def finish_certificate(document: JsonObject) -> JsonObject:
    """Return ``document`` with its ``certificate_digest`` set."""
    return {**document, "certificate_digest": certificate_digest(document)}
