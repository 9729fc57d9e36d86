"""What an attestor is: one way of signing a statement, and of checking such a signature."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from pytest_proofpack.pack.attestations.bundle import Bundle
from pytest_proofpack.pack.attestations.trust import AttestTrust

_NAME = re.compile(r"[A-Za-z0-9._%+@:/=~#?&'-]{1,255}")
"""Digits of a digest, base64, an e-mail address or a URL: whatever an honest bundle calls who attests."""


def claimed_name(text: object) -> str | None:
    """Return what a bundle calls who attests, if it can be a name: one word, of the characters that such names have."""
    return text if isinstance(text, str) and _NAME.fullmatch(text) else None


@dataclass(frozen=True)
class AttestationReport:
    """What is known about an attestation.

    Attributes:
        attester: who attests; if ``pinned`` is False it is what the bundle says of itself, and nothing more.
        pinned: the signature holds and is by somebody whom the caller trusts.
        findings: why the attestation does not hold; empty if it does, or if nothing says whom to trust.
    """

    attester: str
    pinned: bool
    findings: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Who attests, in words."""
        if self.pinned:
            return f"attested by {self.attester}, pinned"
        return f"attested, not pinned: by {self.attester} as it says of itself, which was not checked"


class Attesting(Protocol):
    """Something that can attest here and now."""

    @property
    def attester(self) -> str:
        """Who attests."""

    def sign(self, statement: bytes) -> bytes:
        """Return the bundle, as JSON.

        Raises:
            PackError: it cannot sign.
        """


class Attestor(ABC):
    """One way of attesting. It keeps no key and no state, and imports what is heavy only when it is used.

    Attributes:
        name: what it is called in ``--proofpack-attest=NAME``.
        material: the key of ``verificationMaterial`` that tells its bundles from those of others.
        needs_network: whether it reaches services when it attests.
        needs: what has to be installed for it.
    """

    name: str
    material: str
    needs_network: bool
    needs: str

    @abstractmethod
    def open(self, key: str | None, trust_config: str | None) -> Attesting:
        """Get ready to attest, without ever asking anybody anything.

        Args:
            key: file of a private key, or ``env:NAME``; None if there is none.
            trust_config: file with the services and the root of trust of a Sigstore instance of one's own.

        Raises:
            ConfigurationError: it lacks what it needs, or has no use for what was given.
            PackError: it cannot attest here.
        """

    @abstractmethod
    def check_trust(self, trust: AttestTrust) -> None:
        """Look at what it is to trust, before anything of a pack is read.

        Raises:
            ConfigurationError: a key or a file is not usable, or what is needed to check it is not installed.
        """

    @abstractmethod
    def trusts_anybody(self, trust: AttestTrust) -> bool:
        """Tell whether the caller trusts anybody who attests in this way."""

    @abstractmethod
    def claimed(self, bundle: Bundle) -> str:
        """Return who attests as the bundle says, unchecked; it may hold anything."""

    @abstractmethod
    def verify(self, bundle: Bundle, trust: AttestTrust) -> AttestationReport:
        """Check the signature over the statement; the bundle may hold anything, the statement is not looked at."""
