"""Whether a pack is attested, and by which attestor."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.attestations import ATTESTORS, Attesting
from pytest_proofpack.pack.attestations.by_key import KEY

OFF = "off"


@dataclass(frozen=True)
class AttestRequest:
    """How a pack is to be attested.

    Attributes:
        name: an attestor's, or ``off``; None: by the key if there is one, otherwise not.
        keys: the private key, a file or ``env:NAME``; one at most.
        trust_config: file of the Sigstore instance to use, for the attestor ``sigstore``; None for the public one.
    """

    name: str | None = None
    keys: tuple[str, ...] = ()
    trust_config: str | None = None

    @property
    def chosen(self) -> str:
        """Name of the attestor, or ``off``."""
        return self.name or (KEY.name if self.keys else OFF)


NOT_ATTESTED = AttestRequest()


def open_attestor(request: AttestRequest, network_mode: str) -> Attesting | None:
    """Get ready to attest; None if nothing is to be attested.

    Raises:
        ConfigurationError: there is no such attestor, it lacks a key or a package, or may not reach the network.
        PackError: it cannot attest here.
    """
    if request.chosen == OFF:
        return None
    if request.chosen not in ATTESTORS:
        raise ConfigurationError(
            f"--proofpack-attest: {request.chosen!r} is unknown; choose one of {', '.join([OFF, *ATTESTORS])}."
        )
    if len(request.keys) > 1:
        raise ConfigurationError(
            "--proofpack-attest-key: a pack is attested with one key; only who verifies has several."
        )
    attestor = ATTESTORS[request.chosen]
    if attestor.needs_network and network_mode != "online":
        raise ConfigurationError(
            f"--proofpack-attest={attestor.name} reaches services of others, which see and publish the digests of this "
            "pack and who you are: allow it with --proofpack-net=1."
        )
    return attestor.open(request.keys[0] if request.keys else None, request.trust_config)
