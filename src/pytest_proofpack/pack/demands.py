"""What a verification demands: one record, made before anything of the pack is looked at, and never changed."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_proofpack.pack.signers import normal_key
from pytest_proofpack.pack.terms.signature import REQUIRE_SIGNATURE, TRUSTED_KEY
from pytest_proofpack.pack.terms.term import Stated


@dataclass(frozen=True)
class Demands:
    """What the verifier demands.

    Attributes:
        trusted_keys: fingerprints; if there are any, the signature must be by one of them. Kept as 40 capital digits.
        require_signature: an unsigned pack fails.
        accept_unbound: a pack of InvarLock 0.3.7, whose signature covers names only and whose certificates carry no
            losses, is taken with warnings; it is never called verified.
        allow_unknown_guards: numbers of an extension's guard that is not registered here pass with warnings.
        stated: further demands, on what a pack says if it holds; those on its signature are the first two.

    Raises:
        ConfigurationError: a trusted key is not a full fingerprint.
    """

    trusted_keys: tuple[str, ...] = ()
    require_signature: bool = False
    accept_unbound: bool = False
    allow_unknown_guards: bool = False
    stated: tuple[Stated, ...] = ()

    def __post_init__(self) -> None:
        """Bring the fingerprints into one form, and heed what is stated of the signature."""
        keys = [normal_key(key, "trusted key") for key in self.trusted_keys]
        keys += [stated.value for stated in self.stated if stated.term is TRUSTED_KEY]
        object.__setattr__(self, "trusted_keys", tuple(dict.fromkeys(keys)))
        required = self.require_signature or any(stated.term is REQUIRE_SIGNATURE for stated in self.stated)
        object.__setattr__(self, "require_signature", required)

    @property
    def signed(self) -> bool:
        """Whether a good signature is demanded: then nothing is parsed before there is one."""
        return self.require_signature or bool(self.trusted_keys)
