"""Ways of signing a pack, one module each. A new one is a :class:`Signer` in a module of its own, and a name below."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.signers.openpgp import OPENPGP
from pytest_proofpack.pack.signers.signer import SignatureReport, Signer, SigningKey

__all__ = ["SIGNERS", "SignatureReport", "Signer", "SigningKey", "keys_in_file", "normal_key", "signature_files"]

T = TypeVar("T")

BUILTIN: tuple[Signer, ...] = (OPENPGP,)
"""The first that can sign does, where nobody chooses; the first is also what a manifest means that names none."""

SIGNERS: Registry[Signer] = Registry("signer", "pytest_proofpack.pack.signers:BUILTIN")


def signature_files() -> frozenset[str]:
    """Return the name of every file that a signature may lie in."""
    return frozenset(name for signer in SIGNERS.values() for name in signer.files)


def normal_key(text: str, option: str) -> str:
    """Return a key in the form of the first signer that understands it.

    Raises:
        ConfigurationError: none does; what the first one says of it.
    """
    return _first(lambda signer: signer.normal_key(text, option))


def keys_in_file(data: bytes, option: str) -> tuple[str, ...]:
    """Return the keys of a file of public keys, as the first signer reads them that can.

    Raises:
        ConfigurationError: none can; what the first one says of it.
    """
    return _first(lambda signer: signer.keys_in_file(data, option))


def _first(ask: Callable[[Signer], T]) -> T:
    refusal = None
    for signer in SIGNERS.values():
        try:
            return ask(signer)
        except ConfigurationError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal
