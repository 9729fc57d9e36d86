"""What a verification demands: one record, made before anything of the pack is looked at, and never changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pytest_proofpack.certificate.formats import CURRENT
from pytest_proofpack.pack.attestations.trust import AttestTrust
from pytest_proofpack.pack.signers import keys_in_file, normal_key
from pytest_proofpack.pack.terms.format import MIN_FORMAT
from pytest_proofpack.pack.terms.signature import REQUIRE_SIGNATURE, TRUSTED_KEY, TRUSTED_KEY_FILE
from pytest_proofpack.pack.terms.term import Stated, Term


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
        stated: all demands that are records, those on the signature and those on what a pack says if it holds.

    Raises:
        ConfigurationError: a trusted key is not a full fingerprint, or a file holds no key.
    """

    trusted_keys: tuple[str, ...] = ()
    require_signature: bool = False
    accept_unbound: bool = False
    allow_unknown_guards: bool = False
    key_files: tuple[bytes, ...] = ()
    attesters: AttestTrust = field(default_factory=AttestTrust)
    stated: tuple[Stated, ...] = ()

    def __post_init__(self) -> None:
        """Heed what is stated of the signature, and bring the fingerprints into one form."""
        named = [(stated.value, f"--{stated.demand}") for stated in self.stated if stated.term is TRUSTED_KEY_FILE]
        files = [*((data, "trusted key file") for data in self.key_files), *named]
        keys = [normal_key(key, "trusted key") for key in (*self.trusted_keys, *self._values(TRUSTED_KEY))]
        keys += [key for data, file in files for key in keys_in_file(data, file)]
        object.__setattr__(self, "key_files", tuple(dict.fromkeys(data for data, _ in files)))
        object.__setattr__(self, "trusted_keys", tuple(dict.fromkeys(keys)))
        required = self.require_signature or bool(self._values(REQUIRE_SIGNATURE))
        object.__setattr__(self, "require_signature", required)

    def _values(self, term: Term) -> list[Any]:
        return [stated.value for stated in self.stated if stated.term is term]

    @property
    def min_format(self) -> int:
        """The oldest format of certificates whose gates are believed to say enough."""
        return max(self._values(MIN_FORMAT), default=CURRENT.number)

    @property
    def signed(self) -> bool:
        """Whether a good signature is demanded: then nothing is parsed before there is one."""
        return self.require_signature or bool(self.trusted_keys)
