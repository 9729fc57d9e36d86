"""The steps of verification, each a function of what the step before it proved.

structure -> files -> certificates -> verdict, and structure -> signature. A step returns its findings (why it fails),
its warnings, a note for people, and what it proved.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_proofpack.certificate.check import recompute_certificate
from pytest_proofpack.certificate.foreign import unknown_guards
from pytest_proofpack.certificate.formats import CURRENT, FORMATS, format_of
from pytest_proofpack.certificate.metric import MAX_RESAMPLES
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack import layout as where
from pytest_proofpack.pack.layout import Layout, layout_of
from pytest_proofpack.pack.manifest import Manifest, is_unbound, parse_checksums, parse_manifest
from pytest_proofpack.pack.signers import SIGNERS, SignatureReport, Signer
from pytest_proofpack.pack.signers.openpgp import OPENPGP
from pytest_proofpack.pack.snapshot import FileFacts, Snapshot, path_findings

MAX_EXPECTED = 100_000
"""Upper bound on models x scenarios x runs of a plan."""


@dataclass(frozen=True)
class StepOutcome:
    """What a step found: why it fails, what a reader should know, and a word for people."""

    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Structure:
    """A pack whose documents can be read.

    Attributes:
        snapshot: everything that was read.
        documents: every JSON document by path, the manifest among them.
        manifest: the manifest; None if it is one of InvarLock 0.3.7, which binds nothing.
        layout: where things lie.
        certificates: paths of the certificates, sorted.
    """

    snapshot: Snapshot
    documents: Mapping[str, JsonObject]
    manifest: Manifest | None
    layout: Layout
    certificates: tuple[str, ...]

    @property
    def signer(self) -> Signer | None:
        """The signer that the manifest names; None if there is none of that name here."""
        return OPENPGP if self.manifest is None else SIGNERS.get(self.manifest.signing.signer)

    @property
    def control_files(self) -> frozenset[str]:
        """The files that no digest in the manifest can cover: itself, its signature and the checksums."""
        return where.CONTROL_FILES | frozenset(self.signer.files if self.signer is not None else ())

    @property
    def unbound(self) -> bool:
        """Whether the manifest holds names of files, but no digests."""
        return self.manifest is None

    def sha256(self, value: object) -> str:
        """Return the digest of a JSON value by the canonical form of the pack's format."""
        return FORMATS[self.documents[where.MANIFEST]["schema_version"]].sha256(value)


@dataclass
class _Reading:
    findings: list[str] = field(default_factory=list)
    documents: dict[str, JsonObject] = field(default_factory=dict)


def check_structure(snapshot: Snapshot) -> tuple[StepOutcome, Structure | None]:
    """Make sure that the documents are there, are strict JSON and fit their schemas."""
    reading = _Reading()
    missing = [name for name in (where.MANIFEST, where.CHECKSUMS) if name not in snapshot.contents]
    reading.findings += [f"{name}: missing, or not a regular file" for name in missing]
    for path in sorted(snapshot.contents):
        if path.endswith(".json"):
            _read_document(path, snapshot.contents[path], reading)
    document = reading.documents.get(where.MANIFEST)
    layout = layout_of(snapshot.files)
    certificates = tuple(path for path in sorted(snapshot.files) if where.is_certificate(path))
    manifest = None
    if document is not None and not is_unbound(document):
        reading.findings += _schema_findings(reading.documents, certificates, layout)
        manifest = None if reading.findings else parse_manifest(document)
    if reading.findings:
        return StepOutcome(tuple(reading.findings)), None
    structure = Structure(snapshot, reading.documents, manifest, layout, certificates)
    return StepOutcome(note=f"{len(reading.documents)} documents"), structure


def _read_document(path: str, data: bytes, reading: _Reading) -> None:
    try:
        document = parse_json(data, path)
    except FormatError as error:
        reading.findings.append(str(error))
    else:
        reading.documents[path] = document


def _schema_findings(documents: Mapping[str, JsonObject], certificates: tuple[str, ...], layout: Layout) -> list[str]:
    schemas = {where.MANIFEST: "manifest", **{path: schema for schema, path in layout.schemas.items()}}
    schemas[layout.scenarios] = _schema_of_scenarios(documents.get(where.MANIFEST, {}))
    findings = [
        f"{path}: {finding}"
        for path, schema in schemas.items()
        if path in documents
        for finding in schema_findings(schema, documents[path])
    ]
    found = [path for path in certificates if path in documents]
    findings += [f"{path}: {finding}" for path in found for finding in certificate_findings(documents[path])]
    if not findings and where.MANIFEST in documents:
        findings = _format_findings(documents, found)
    return findings or _plan_findings(documents.get(layout.scenarios), layout.scenarios)


def _schema_of_scenarios(manifest: JsonObject) -> str:
    number = manifest.get("schema_version")
    return FORMATS[number].scenarios if type(number) is int and number in FORMATS else CURRENT.scenarios


def _format_findings(documents: Mapping[str, JsonObject], certificates: list[str]) -> list[str]:
    """Refuse certificates of another format than the pack's.

    One verdict counts them all, and a detector's flag has to mean the same in each: ``rmt_stable`` of format 1 does not
    mean what it means in format 2. No version of this package has ever written a mixed pack.
    """
    number = documents[where.MANIFEST]["schema_version"]
    return [
        f"{path}: is of format {form.number}, manifest.json says that the pack is of format {number}"
        for path in certificates
        if (form := format_of(documents[path])).number != number
    ]


def _plan_findings(scenarios: JsonObject | None, path: str) -> list[str]:
    if scenarios is None:
        return [f"{path}: missing, so nothing says which certificates there ought to be"]
    if "plan" not in scenarios:
        return [f"{path}: holds no plan, so nothing says which models and runs there ought to be"]
    ids = [entry["id"] for entry in scenarios["scenarios"]]
    repeated = sorted({name for name in ids if ids.count(name) > 1 or name == "calibration"})
    findings = [f"{path}: the scenario id {name!r} stands there twice, or is reserved" for name in repeated]
    plan = scenarios["plan"]
    if len(plan["models"]) * (len(ids) + 1) * max(plan["runs"].values()) > MAX_EXPECTED:
        findings.append(f"{path}: plans more than {MAX_EXPECTED} certificates")
    return findings


def check_files(structure: Structure) -> StepOutcome:
    """Compare what is there with the manifest and the checksums: nothing extra, missing, changed or unsafe."""
    snapshot = structure.snapshot
    findings = list(snapshot.findings)
    manifest = structure.manifest
    if manifest is None:
        declared = structure.documents[where.MANIFEST].get("artifacts")
        names = {name for name in declared if isinstance(name, str)} if isinstance(declared, list) else set()
        findings += path_findings(names)
    else:
        names = set(manifest.digests)
        findings += path_findings(names)
        findings += [
            f"{name!a}: no file of a pack has this name" for name in sorted(names) if not _belongs(name, structure)
        ]
        findings += _digest_findings(manifest.digests, snapshot.files)
        if structure.documents[where.MANIFEST]["artifacts"] != sorted(names):
            findings.append("manifest.json: artifacts and artifact_digests name different files")
    found = set(snapshot.files) - structure.control_files
    findings += [f"{name!a}: an extra file that manifest.json does not name" for name in sorted(found - names)]
    findings += [f"{name!a}: missing; manifest.json names it" for name in sorted(names - found)]
    findings += _checksum_findings(snapshot)
    return StepOutcome(tuple(dict.fromkeys(findings)), note=f"{len(snapshot.files)} files")


def _belongs(name: str, structure: Structure) -> bool:
    return name not in structure.control_files and structure.layout.knows(name)


def _digest_findings(expected: Mapping[str, FileFacts], found: Mapping[str, FileFacts]) -> list[str]:
    findings = []
    for name in sorted(expected.keys() & found.keys()):
        if found[name].size != expected[name].size:
            findings.append(f"{name!a}: {found[name].size} bytes, manifest.json says {expected[name].size}")
        elif found[name].sha256 != expected[name].sha256:
            findings.append(f"{name!a}: changed; its digest is not the one in manifest.json")
    return findings


def _checksum_findings(snapshot: Snapshot) -> list[str]:
    text = snapshot.contents[where.CHECKSUMS].decode("utf-8", "replace")
    digests, findings = parse_checksums(text)
    expected = {name: facts.sha256 for name, facts in snapshot.files.items() if name != where.CHECKSUMS}
    findings += path_findings(digests)
    findings += [f"{where.CHECKSUMS}: does not list {name!a}" for name in sorted(expected.keys() - digests.keys())]
    findings += [f"{where.CHECKSUMS}: lists {name!a}, missing" for name in sorted(digests.keys() - expected.keys())]
    common = sorted(expected.keys() & digests.keys())
    return findings + [
        f"{where.CHECKSUMS}: the digest of {name!a} does not match"
        for name in common
        if digests[name] != expected[name]
    ]


def check_signature(
    structure: Structure, trusted: tuple[str, ...], *, required: bool, accept_unbound: bool
) -> tuple[StepOutcome, SignatureReport | None]:
    """Check who signed the manifest, if anybody did."""
    contents = structure.snapshot.contents
    unbound = [f"signature does not cover {path}" for path in structure.certificates] if structure.unbound else []
    findings, cautions = ([], unbound) if accept_unbound else (unbound, [])
    manifest, signer = structure.manifest, structure.signer
    if signer is None and manifest is not None:
        unknown = f"signed by {manifest.signing.signer!r}, a signer that is not installed here: it cannot be checked"
        return StepOutcome((*findings, unknown), tuple(cautions)), None
    assert signer is not None
    claims_signed = manifest is not None and manifest.signing.fingerprint is not None
    files = {name: contents[name] for name in signer.files if name in contents}
    if not files:
        if claims_signed:
            missing = " and ".join(signer.files)
            findings.append(f"manifest.json says that it was signed, but {missing} is missing")
        if required or trusted:
            findings.append("the pack is unsigned, and a signature is required")
        reason = f" ({manifest.signing.reason})" if manifest is not None and manifest.signing.reason else ""
        cautions.append("the pack is unsigned: nothing tells who made it")
        return StepOutcome(tuple(findings), tuple(cautions), f"unsigned{reason}"), None
    report = signer.verify(contents[where.MANIFEST], files, trusted)
    findings += report.findings
    if manifest is not None and report.fingerprint and manifest.signing.fingerprint != report.fingerprint:
        findings.append(f"signed by {report.fingerprint}, but manifest.json names {manifest.signing.fingerprint}")
    note = (
        f"signed by {report.fingerprint}, {'pinned' if report.pinned else 'not pinned'}" if report.fingerprint else ""
    )
    return StepOutcome(tuple(findings), tuple(cautions), note), report


def check_one_certificate(
    path: str, structure: Structure, *, accept_unbound: bool, allow_unknown_guards: bool = False
) -> StepOutcome:
    """Recompute everything in one certificate, and make sure that it lies where it belongs.

    Args:
        path: the certificate's.
        structure: the pack.
        accept_unbound: whether a certificate without losses, of InvarLock 0.3.7, passes with a warning.
        allow_unknown_guards: whether numbers of guards that are not registered here pass with a warning.
    """
    certificate = structure.documents[path]
    manifest = structure.manifest
    if manifest is None:
        if _has_losses(certificate):
            findings = certificate_findings(certificate) or _recompute(certificate, allow_unknown_guards)
            return StepOutcome(tuple(f"{path}: {finding}" for finding in findings))
        lacking = (f"{path}: carries no window losses, so nothing in it can be recomputed",)
        return StepOutcome(warnings=lacking) if accept_unbound else StepOutcome(lacking)
    findings = _place_findings(path, certificate, manifest)
    findings += _recompute(certificate, allow_unknown_guards)
    findings += _check_file_findings(path, certificate, structure, clean=not findings)
    taken_on_trust = unknown_guards(certificate) if allow_unknown_guards else []
    return StepOutcome(
        tuple(f"{path}: {finding}" for finding in findings), tuple(f"{path}: {line}" for line in taken_on_trust)
    )


def _has_losses(certificate: JsonObject) -> bool:
    windows = certificate.get("evaluation_windows")
    final = windows.get("final") if isinstance(windows, dict) else None
    return isinstance(final, dict) and "logloss" in final and "baseline_logloss" in final


def _recompute(certificate: JsonObject, allow_unknown_guards: bool) -> list[str]:
    """Check a certificate that fits its schema, whatever numbers it holds."""
    windows = len(certificate["evaluation_windows"]["final"]["window_ids"])
    replicates = certificate["dataset"]["windows"]["stats"]["bootstrap"]["replicates"]
    if windows * max(windows, replicates) > MAX_RESAMPLES:
        return [f"asks for {replicates} resamples of {windows} windows, more than verification allows"]
    try:
        with warnings.catch_warnings():
            # Absurd numbers overflow on the way to being refused.
            warnings.simplefilter("ignore", RuntimeWarning)
            return recompute_certificate(certificate, allow_unknown_guards=allow_unknown_guards)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return [f"cannot be checked: {type(error).__name__}: {error}"]


def _place_findings(path: str, certificate: JsonObject, manifest: Manifest) -> list[str]:
    model = certificate["meta"]["model_id"]
    expected = where.expected_path(certificate, manifest.model_list)
    if expected is None:
        return [f"meta.model_id: {model!r} is not in the manifest's model_list"]
    findings = []
    if expected != path:
        findings.append(f"belongs at {expected}, by its model, scenario and run")
    revision = manifest.revisions.get(model)
    if certificate["meta"]["revision"] != revision:
        findings.append(f"meta.revision: recorded {certificate['meta']['revision']!r}, the manifest has {revision!r}")
    return findings


def _check_file_findings(path: str, certificate: JsonObject, structure: Structure, *, clean: bool) -> list[str]:
    """Compare the maker's ``verify.json`` with what was found here; a difference is news only if all else holds."""
    recorded = structure.documents.get(where.beside(path, where.CHECK_FILE))
    if recorded is None:
        return [f"{where.CHECK_FILE}: missing"]
    expected = {
        "certificate": where.CERTIFICATE_FILE,
        "certificate_digest": certificate["certificate_digest"],
        "certificate_sha256": structure.snapshot.files[path].sha256,
        "ok": True,
        "findings": [],
    }
    wrong = [key for key, value in expected.items() if compact_json(recorded.get(key)) != compact_json(value)]
    return [f"{where.CHECK_FILE}: {key} is not what the certificate gives" for key in wrong] if clean else []
