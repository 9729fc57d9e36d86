"""What a signer is: one way of signing a manifest, and of checking such a signature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pytest_proofpack.errors import ConfigurationError


@dataclass(frozen=True)
class SignatureReport:
    """What is known about a signature.

    Attributes:
        fingerprint: who signed: for OpenPGP the primary fingerprint of the key; None unless the signature was checked.
        pinned: the fingerprint is one of those the caller trusts.
        findings: why the signature does not hold; empty if it does.
        time: when it was made, as the signer says; None if nothing says it.
    """

    fingerprint: str | None
    pinned: bool
    findings: tuple[str, ...]
    time: datetime | None = field(default=None, compare=False)


class SigningKey(Protocol):
    """A key that can sign here and now, because it has just done so."""

    @property
    def fingerprint(self) -> str:
        """What the manifest says of who signed, and :attr:`SignatureReport.fingerprint` after verification."""

    def sign(self, manifest: bytes) -> Mapping[str, bytes]:
        """Return the signature's files, by their names in the pack.

        Raises:
            PackError: it cannot sign any more, or its signature does not hold.
        """


class Signer(ABC):
    """One way of signing. It keeps no key and no state, and imports what is heavy only when it is used.

    Attributes:
        name: what it is called in ``--proofpack-sign=NAME`` and in the manifest.
        files: what it leaves in a pack: the name of each file, and what it is, for the pack's README.
        check_by_hand: the command that checks a signature without this package, in the pack's folder.
        caution: what a good signature proves, and what to compare: ends the sentence "a good one only says ...".
        advice: what to do where it cannot sign.
    """

    name: str
    files: Mapping[str, str]
    check_by_hand: str
    caution: str
    advice: str

    def remedy(self) -> str:
        """Return what to do where it cannot sign, here and now: its advice, unless there is a better one."""
        return self.advice

    @abstractmethod
    def find_key(self, wanted: str | None) -> SigningKey:
        """Find a key that can sign here, without ever asking anybody anything.

        Args:
            wanted: the key to use and no other, as :meth:`normal_key` returns it; None for one of the signer's choice.

        Raises:
            PackError: nothing can sign; says why, without a path and a user name.
        """

    @abstractmethod
    def normal_key(self, text: str, option: str) -> str:
        """Return what a person wrote for a key in the one form that is compared.

        Raises:
            ConfigurationError: it does not name a key beyond doubt; ``option`` says where it was written.
        """

    def keys_in_file(self, data: bytes, option: str) -> tuple[str, ...]:
        """Return the keys of a file of public keys, in their normal form; a signer without such files refuses.

        Raises:
            ConfigurationError: there is no key in it; ``option`` names the file.
        """
        raise ConfigurationError(f"{option}: the signer {self.name} takes no key from a file ({len(data)} bytes).")

    @abstractmethod
    def verify(
        self,
        manifest: bytes,
        files: Mapping[str, bytes],
        trusted: Collection[str] = (),
        key_files: Sequence[bytes] = (),
    ) -> SignatureReport:
        """Check a signature; it may hold anything.

        Args:
            manifest: the signed bytes.
            files: the signature's files, those of :attr:`files` that are there; at least one.
            trusted: keys in their normal form; if there are any, a signature by another one is a finding.
            key_files: what the files hold that some of these keys came from.
        """
