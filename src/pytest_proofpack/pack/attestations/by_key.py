"""The attestor ``key``: a statement signed with an ECDSA P-256 key of one's own, from a PEM file or the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.attestations.attestor import AttestationReport, Attestor, claimed_name
from pytest_proofpack.pack.attestations.bundle import Bundle, bundle_json, pre_authentication_encoding
from pytest_proofpack.pack.attestations.trust import AttestTrust
from pytest_proofpack.pack.key_files import read_key_files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PASSPHRASE = "PROOFPACK_ATTEST_PASSPHRASE"
"""Environment variable with the passphrase of the private key, if it has one."""
FROM_ENVIRONMENT = "env:"
_INSTALL = "pip install 'pytest-proofpack[attest]'"
_CURVE = "secp256r1"


@dataclass(frozen=True)
class LocalKey:
    """A private key that can sign.

    Attributes:
        attester: ``key`` and its id.
    """

    attester: str
    _id: str
    _key: EllipticCurvePrivateKey = field(repr=False)

    def sign(self, statement: bytes) -> bytes:
        """Return a bundle that names the key by its id."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        signature = self._key.sign(pre_authentication_encoding(statement), ECDSA(SHA256()))
        return bundle_json(statement, signature, self._id)


class ByKey(Attestor):
    """ECDSA over P-256 with SHA-256; the key's id is the SHA-256 of its public half (DER, SubjectPublicKeyInfo)."""

    name = "key"
    material = "publicKey"
    needs_network = False
    needs = _INSTALL

    def open(self, key: str | None, trust_config: str | None) -> LocalKey:
        """Read the private key."""
        if trust_config is not None:
            raise ConfigurationError("--proofpack-attest-trust-config is for --proofpack-attest=sigstore only.")
        if key is None:
            raise ConfigurationError("--proofpack-attest=key needs a key: give --proofpack-attest-key=FILE.")
        private = _private_key(_private_pem(key), key)
        key_id = _key_id(private.public_key())
        return LocalKey(_shown(key_id), key_id, private)

    def check_trust(self, trust: AttestTrust) -> None:
        """Read the public keys."""
        _public_keys(trust.keys)

    def trusts_anybody(self, trust: AttestTrust) -> bool:
        """Tell whether there is a key to trust."""
        return bool(trust.keys)

    def claimed(self, bundle: Bundle) -> str:
        """Return the id of the key."""
        named = bundle.verification[self.material]
        hint = named.get("hint") if isinstance(named, dict) else None
        name = claimed_name(hint)
        return "a key without a name" if name is None else _shown(name)

    def verify(self, bundle: Bundle, trust: AttestTrust) -> AttestationReport:
        """Try every trusted key; the id in the bundle is a hint that nothing vouches for."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        for key in _public_keys(trust.keys):
            try:
                key.verify(bundle.signature, bundle.signed(), ECDSA(SHA256()))
            except InvalidSignature:
                continue
            return AttestationReport(_shown(_key_id(key)), pinned=True)
        finding = f"the attestation is by none of the trusted keys, or was changed; it names {self.claimed(bundle)}"
        return AttestationReport(self.claimed(bundle), pinned=False, findings=(finding,))


def _shown(key_id: str) -> str:
    return f"key {key_id}"


def _key_id(key: EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _private_pem(key: str) -> bytes:
    if key.startswith(FROM_ENVIRONMENT):
        name = key.removeprefix(FROM_ENVIRONMENT)
        if not (text := os.environ.get(name)):
            raise ConfigurationError(f"--proofpack-attest-key={key}: there is no environment variable {name}.")
        return text.encode()
    return read_key_files([Path(key)], "--proofpack-attest-key")[0]


def _private_key(pem: bytes, key: str) -> EllipticCurvePrivateKey:
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    passphrase = os.environ.get(PASSPHRASE)
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not passphrase:
        raise PackError(f"the key to attest with has a passphrase: put it into the environment variable {PASSPHRASE}")
    try:
        private = load_pem_private_key(pem, passphrase.encode() if encrypted and passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = f"the passphrase in {PASSPHRASE} does not open it" if encrypted else "it is no private key in PEM"
        raise ConfigurationError(f"--proofpack-attest-key={key}: {why}. {_HOW_TO_MAKE}") from error
    if not isinstance(private, EllipticCurvePrivateKey) or private.curve.name != _CURVE:
        raise ConfigurationError(f"--proofpack-attest-key={key}: is not an ECDSA key over P-256. {_HOW_TO_MAKE}")
    return private


_HOW_TO_MAKE = "Make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE"


def _public_keys(pems: Sequence[bytes]) -> list[EllipticCurvePublicKey]:
    """Return the trusted keys.

    Raises:
        ConfigurationError: one is not a public key over P-256.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = []
    for pem in pems:
        try:
            key = load_pem_public_key(pem)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"--attest-key: holds no public key in PEM. {_HOW_TO_EXPORT}") from error
        if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != _CURVE:
            raise ConfigurationError("--attest-key: is not the public half of an ECDSA key over P-256.")
        keys.append(key)
    return keys


_HOW_TO_EXPORT = "Make it with: openssl pkey -in PRIVATE.pem -pubout -out PUBLIC.pem"


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"an attestation by a key needs the package cryptography, which is not installed. Install it: {_INSTALL}"
        ) from error


KEY = ByKey()
