"""ECDSA keys for tests, and the independent ways of checking what they signed."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


class AttestKey:
    """A P-256 key (or one over another curve) with its halves as PEM."""

    def __init__(self, curve: ec.EllipticCurve | None = None) -> None:
        self.private = ec.generate_private_key(curve or ec.SECP256R1())

    @property
    def public_pem(self) -> bytes:
        """The public half."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def private_pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the private half, encrypted if there is a passphrase."""
        form: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, form)

    def write(self, folder: Path, passphrase: bytes | None = None) -> tuple[Path, Path]:
        """Write both halves and return where: private, public."""
        private, public = folder / "private.pem", folder / "public.pem"
        private.write_bytes(self.private_pem(passphrase))
        public.write_bytes(self.public_pem)
        return private, public
