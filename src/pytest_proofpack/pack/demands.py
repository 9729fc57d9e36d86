"""What a verification demands: one record, made before anything of the pack is looked at, and never changed."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_proofpack.pack.signers import normal_key


@dataclass(frozen=True)
class Demands:
    """What the verifier demands.

    Attributes:
        trusted_keys: fingerprints; if there are any, the signature must be by one of them. Kept as 40 capital digits.
        require_signature: an unsigned pack fails.
        accept_unbound: a pack of InvarLock 0.3.7, whose signature covers names only and whose certificates carry no
            losses, is taken with warnings; it is never called verified.
        allow_unknown_guards: numbers of an extension's guard that is not registered here pass with warnings.

    Raises:
        ConfigurationError: a trusted key is not a full fingerprint.
    """

    trusted_keys: tuple[str, ...] = ()
    require_signature: bool = False
    accept_unbound: bool = False
    allow_unknown_guards: bool = False

    def __post_init__(self) -> None:
        """Bring the fingerprints into one form."""
        keys = tuple(normal_key(key, "trusted key") for key in self.trusted_keys)
        object.__setattr__(self, "trusted_keys", keys)

    @property
    def signed(self) -> bool:
        """Whether a good signature is demanded: then nothing is parsed before there is one."""
        return self.require_signature or bool(self.trusted_keys)
