"""Ways of attesting a pack, one module each. A new one is an :class:`Attestor` in a module of its own and a name below.

A signature says "this manifest is mine". An attestation says in the form that release tooling reads what was tested and
how it ended: an in-toto statement about the manifest and the models, in a DSSE envelope, in a Sigstore bundle. A pack
may hold both, one of them, or none.
"""

from __future__ import annotations

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack.attestations.attestor import AttestationReport, Attesting, Attestor
from pytest_proofpack.pack.attestations.bundle import FILE, Bundle
from pytest_proofpack.pack.attestations.by_identity import SIGSTORE
from pytest_proofpack.pack.attestations.by_key import KEY

__all__ = ["ATTESTORS", "FILE", "AttestationReport", "Attesting", "Attestor", "attestor_of"]

BUILTIN: tuple[Attestor, ...] = (KEY, SIGSTORE)

ATTESTORS: Registry[Attestor] = Registry("attestor", "pytest_proofpack.pack.attestations:BUILTIN")


def attestor_of(bundle: Bundle) -> Attestor:
    """Return the attestor that makes bundles with this verification material.

    Raises:
        FormatError: there is none.
    """
    for attestor in ATTESTORS.values():
        if attestor.material == bundle.material:
            return attestor
    raise FormatError(f"{FILE}: nothing here checks a bundle with {bundle.material!r} for verification material")
