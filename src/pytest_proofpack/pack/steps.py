"""What the steps of verification hand on: each gets only what the ones before it proved.

signature -> attestation -> manifest -> files -> structure -> certificates -> verdict -> statement, a module
``check_NAME`` each (attestation and statement share one). A step returns its findings (why it fails), its warnings, a
note for people, and what it proved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pytest_proofpack.certificate.formats import FORMATS, Format
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.pack import attestations
from pytest_proofpack.pack import layout as where
from pytest_proofpack.pack.layout import Layout
from pytest_proofpack.pack.manifest import Manifest
from pytest_proofpack.pack.signers import SIGNERS, SignatureReport, Signer
from pytest_proofpack.pack.signers.openpgp import OPENPGP
from pytest_proofpack.pack.snapshot import Snapshot
from pytest_proofpack.plan.expected import Key, expected_certificates
from pytest_proofpack.plan.records import Scenario


@dataclass(frozen=True)
class StepOutcome:
    """What a step found: why it fails, what a reader should know, and a word for people."""

    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Signed:
    """A signature that was looked at, good or not.

    Attributes:
        signer: whose it is by the name of its files.
        report: what the signer says of it.
    """

    signer: Signer
    report: SignatureReport


@dataclass(frozen=True)
class Opened:
    """A pack whose manifest can be read.

    Attributes:
        snapshot: everything that was read.
        document: the manifest as it stands there.
        manifest: the manifest; None if it is one of InvarLock 0.3.7, which binds nothing.
        layout: where things lie.
    """

    snapshot: Snapshot
    document: JsonObject
    manifest: Manifest | None
    layout: Layout

    @property
    def signer(self) -> Signer | None:
        """The signer that the manifest names; None if there is none of that name here."""
        return OPENPGP if self.manifest is None else SIGNERS.get(self.manifest.signing.signer)

    @cached_property
    def control_files(self) -> frozenset[str]:
        """The files that no digest in the manifest can cover: itself, its signature, attestation and checksums."""
        attestation = {attestations.FILE} if self.manifest is not None else set()
        return where.CONTROL_FILES | frozenset(self.signer.files if self.signer is not None else ()) | attestation

    @cached_property
    def listed(self) -> frozenset[str]:
        """Names of the files that the manifest lists; no other file is ever parsed."""
        if self.manifest is not None:
            return frozenset(self.manifest.digests)
        return frozenset(self.document["artifacts"])


@dataclass(frozen=True)
class Structure:
    """A pack whose documents can be read.

    Attributes:
        opened: the pack.
        documents: every JSON document by path, the manifest among them.
        certificates: paths of the certificates, sorted; at least one.
    """

    opened: Opened
    documents: Mapping[str, JsonObject]
    certificates: tuple[str, ...]

    @property
    def snapshot(self) -> Snapshot:
        """Everything that was read."""
        return self.opened.snapshot

    @property
    def manifest(self) -> Manifest | None:
        """The manifest; None if it is one of InvarLock 0.3.7, which binds nothing."""
        return self.opened.manifest

    @property
    def layout(self) -> Layout:
        """Where things lie."""
        return self.opened.layout

    @cached_property
    def certificate_documents(self) -> Mapping[str, JsonObject]:
        """The certificates by path."""
        return {path: self.documents[path] for path in self.certificates}

    @property
    def scenarios(self) -> JsonObject:
        """The scenarios document with its plan, of a pack with a manifest of ours."""
        return self.documents[self.layout.scenarios]

    @cached_property
    def expected(self) -> Mapping[Key, Scenario]:
        """Which certificates the plan expects; see :func:`expected_certificates`."""
        return expected_certificates(self.scenarios)

    def sha256(self, value: object) -> str:
        """Return the digest of a JSON value by the canonical form of the pack's format."""
        return self.format.sha256(value)

    @property
    def format(self) -> Format:
        """The pack's format, of one with a manifest of ours."""
        return FORMATS[self.documents[where.MANIFEST]["schema_version"]]
