"""What a verification demands: one record, made before anything of the pack is looked at, and never changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_proofpack.pack.attestations.trust import AttestTrust
from pytest_proofpack.pack.signers import keys_in_file, normal_key


@dataclass(frozen=True)
class Demands:
    """What the verifier demands.

    Attributes:
        trusted_keys: fingerprints; if there are any, the signature must be by one of them. Kept as 40 capital digits.
        require_signature: an unsigned pack fails.
        accept_unbound: a pack of InvarLock 0.3.7, whose signature covers names only and whose certificates carry no
            losses, is taken with warnings; it is never called verified.
        allow_unknown_guards: numbers of an extension's guard that is not registered here pass with warnings.

        key_files: what files of public keys hold; the signature must be by one of these keys or of ``trusted_keys``,
            where theirs are added.
        attesters: whom the verifier trusts to attest; if anybody, the pack must be attested by one of them.

    Raises:
        ConfigurationError: a trusted key is not a full fingerprint, or a file holds no key.
    """

    trusted_keys: tuple[str, ...] = ()
    require_signature: bool = False
    accept_unbound: bool = False
    allow_unknown_guards: bool = False
    key_files: tuple[bytes, ...] = ()
    attesters: AttestTrust = field(default_factory=AttestTrust)

    def __post_init__(self) -> None:
        """Bring the fingerprints into one form."""
        keys = [normal_key(key, "trusted key") for key in self.trusted_keys]
        keys += [key for data in self.key_files for key in keys_in_file(data, "trusted key file")]
        object.__setattr__(self, "trusted_keys", tuple(dict.fromkeys(keys)))

    @property
    def signed(self) -> bool:
        """Whether a good signature is demanded: then nothing is parsed before there is one."""
        return self.require_signature or bool(self.trusted_keys)
