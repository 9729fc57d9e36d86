"""Whom a verifier trusts to attest: one record, read before anything of a pack is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.key_files import read_key_files


@dataclass(frozen=True)
class AttestTrust:
    """Whom to trust. If anybody is named, a pack without an attestation by one of them fails.

    Attributes:
        keys: what the files of trusted public keys hold (PEM).
        identity: who a certificate of Sigstore's has to name: an e-mail address, the URI of a workflow.
        issuer: who vouches for that identity: the URL of the OpenID Connect provider.
        trust_config: of a Sigstore instance of one's own, its client trust config (JSON); None for the public one.

    Raises:
        ConfigurationError: an identity without its issuer, or the other way round; or see
            :meth:`pytest_proofpack.pack.attestations.attestor.Attestor.check_trust`.
    """

    keys: tuple[bytes, ...] = ()
    identity: str | None = None
    issuer: str | None = None
    trust_config: bytes | None = None

    def __post_init__(self) -> None:
        """Refuse what nobody could be trusted by."""
        if (self.identity is None) != (self.issuer is None):
            raise ConfigurationError(
                "an attester's identity means something only together with who vouches for it: give both "
                "--attest-identity and --attest-issuer."
            )
        if self.trust_config is not None and self.identity is None:
            raise ConfigurationError("--attest-trust-config is for identities: give --attest-identity too.")
        if self.demanded:
            from pytest_proofpack.pack.attestations import ATTESTORS

            for attestor in ATTESTORS.values():
                if attestor.trusts_anybody(self):
                    attestor.check_trust(self)

    @property
    def demanded(self) -> bool:
        """Whether anybody is trusted, so that an attestation by one of them is demanded."""
        return bool(self.keys) or self.identity is not None


def read_trust(
    keys: Iterable[str | PathLike[str]] = (),
    identity: str | None = None,
    issuer: str | None = None,
    trust_config: str | PathLike[str] | None = None,
) -> AttestTrust:
    """Return the trust of files and names as a command line gives them.

    Raises:
        ConfigurationError: a file cannot be read, or see :class:`AttestTrust`.
    """
    configs = [trust_config] if trust_config is not None else []
    return AttestTrust(
        read_key_files(keys, "--attest-key"),
        identity,
        issuer,
        next(iter(read_key_files(configs, "--attest-trust-config")), None),
    )
