"""What Python code outside of this package may use: load a pack, and verify one. See docs/api.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.pack.attestations.trust import read_trust
from pytest_proofpack.pack.check_manifest import check_manifest
from pytest_proofpack.pack.check_structure import check_structure
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.key_files import read_key_files
from pytest_proofpack.pack.layout import MANIFEST
from pytest_proofpack.pack.policy import state
from pytest_proofpack.pack.snapshot import take_snapshot
from pytest_proofpack.pack.steps import Structure
from pytest_proofpack.pack.verify import VerificationReport, verify_pack


@dataclass(frozen=True)
class Certificate:
    """One certificate of a pack, as it is recorded there.

    Attributes:
        path: where it lies in the pack.
        model: id of the model.
        scenario: id of the scenario.
        run: number of the run, from 1.
        ratio: the edited model's perplexity over the unedited one's; None if a loss is not finite.
        interval: lower and upper end of the ratio's 95 % interval; None if there is none.
        outcome: ``pass`` if every gate passed.
        document: the whole certificate (docs/certificate.md). Not a copy: leave it as it is.
    """

    path: str
    model: str
    scenario: str
    run: int
    ratio: float | None
    interval: tuple[float, float] | None
    outcome: Literal["pass", "fail"]
    document: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Pack:
    """A pack as it is recorded: nothing of it has been verified.

    Attributes:
        path: its directory.
        verdict: ``PASS`` or ``FAIL``, as manifest.json says.
        certificates: all of them, in the order of their paths.
        manifest: the whole manifest (docs/pack-format.md). Not a copy: leave it as it is.
    """

    path: Path
    verdict: Literal["PASS", "FAIL"]
    certificates: tuple[Certificate, ...] = field(repr=False)
    manifest: Mapping[str, Any] = field(repr=False, compare=False)


def load_pack(path: str | PathLike[str]) -> Pack:
    """Read a pack, without verifying it.

    Every file is read once, at most 16 MiB of each and 1 GiB of all, no link is followed and nothing is executed. The
    documents are strict JSON and fit their schemas. That is all that is known of them: who made the pack, whether its
    files are those of the manifest, and whether its numbers follow from its evidence, :func:`verify` tells. It reads
    the directory anew, so a pack that others can write to may be another one by then.

    Args:
        path: the pack's directory.

    Raises:
        ConfigurationError: there is no such directory, or it cannot be read.
        FormatError: a document is missing or not what its format demands.
        VerificationError: the directory holds far more than any pack.
    """
    directory = Path(path)
    structure = read_structure(directory)
    assert structure.manifest is not None
    documents = structure.documents
    return Pack(
        path=directory,
        verdict="PASS" if structure.manifest.verdict == "PASS" else "FAIL",
        certificates=tuple(_certificate(name, documents[name]) for name in structure.certificates),
        manifest=MappingProxyType(documents[MANIFEST]),
    )


def read_structure(directory: Path) -> Structure:
    """Read a pack of ours, without verifying it; see :func:`load_pack`.

    Raises:
        ConfigurationError: there is no such directory, or it cannot be read.
        FormatError: a document is missing or not what its format demands.
        VerificationError: the directory holds far more than any pack.
    """
    if not directory.is_dir():
        raise ConfigurationError(f"{directory}: there is no such directory. Name the directory of a pack.")
    structure = None
    outcome, opened = check_manifest(take_snapshot(directory), accept_unbound=True)
    if opened is not None and opened.manifest is None:
        raise FormatError(
            f"{directory}: a pack of InvarLock 0.3.7, whose certificates are not ours. Verify it instead."
        )
    if opened is not None:
        outcome, structure = check_structure(opened)
    if structure is None or structure.manifest is None:
        first, *others = outcome.findings
        more = f" (and {len(others)} more findings; verify the pack to see them)" if others else ""
        raise FormatError(f"{directory}: {printable(first)}{more}")
    return structure


def verify(
    path: str | PathLike[str],
    *,
    trusted_keys: Iterable[str] = (),
    require_signature: bool = False,
    accept_unbound: bool = False,
    allow_unknown_guards: bool = False,
    demands: Mapping[str, object] | None = None,
    trusted_key_files: Iterable[str | PathLike[str]] = (),
    attest_keys: Iterable[str | PathLike[str]] = (),
    attest_identity: str | None = None,
    attest_issuer: str | None = None,
    attest_trust_config: str | PathLike[str] | None = None,
) -> VerificationReport:
    """Verify a pack, as ``proofpack verify`` does: files, signature, every number of every certificate, the verdict.

    Args:
        path: the pack's directory.
        trusted_keys: full fingerprints; if there are any, the signature must be by one of them.
        trusted_key_files: files of public keys; the same for these, which need not be in a keyring.
        attest_keys: files of public keys (ECDSA P-256, PEM); if there are any, or an identity, the pack must be
            attested by one of them.
        attest_identity: whom a certificate of Sigstore's has to name.
        attest_issuer: who has to vouch for that identity.
        attest_trust_config: the client trust config of a Sigstore instance of your own; by default the public one.
        require_signature: an unsigned pack fails.
        accept_unbound: a pack of InvarLock 0.3.7, whose signature covers no certificate, passes with warnings.
        allow_unknown_guards: numbers of an extension's guard that is not installed here pass with warnings.
        demands: what is demanded of the pack beyond that, with the keys and values of a policy file:
            ``{"require-verdict": "PASS", "expect-model": ["acme/Tiny-1M"]}``.

    Returns:
        The report; its ``ok`` tells whether everything holds that the pack claims, its ``verdict`` what that is, its
        ``accepted`` whether every demand is met too.

    Raises:
        ConfigurationError: there is no such directory, it cannot be read, a key is not a full fingerprint, a file holds
            no key, or a demand is not understood.
        VerificationError: the directory holds far more than any pack.
    """
    wanted = Demands(
        tuple(trusted_keys),
        require_signature,
        accept_unbound,
        allow_unknown_guards,
        key_files=read_key_files(trusted_key_files, "trusted_key_files"),
        attesters=read_trust(attest_keys, attest_identity, attest_issuer, attest_trust_config),
        stated=state(demands or {}, "demands: "),
    )
    return verify_pack(Path(path), wanted)


def _certificate(path: str, document: JsonObject) -> Certificate:
    """Return the record of a certificate that fits its schema."""
    metric = document["primary_metric"]
    low_high = metric.get("display_ci")
    return Certificate(
        path=path,
        model=document["meta"]["model_id"],
        scenario=document["scenario"]["id"],
        run=document["scenario"]["run"],
        ratio=metric.get("ratio_vs_baseline"),
        interval=(low_high[0], low_high[1]) if low_high is not None else None,
        outcome="pass" if document["outcome"]["passed"] else "fail",
        document=MappingProxyType(document),
    )
