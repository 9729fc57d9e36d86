"""Writing a pack: everything is checked and composed first, written beside the target, and renamed into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Protocol

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.formats import CURRENT, format_of
from pytest_proofpack.certificate.repeats import repeats_findings
from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.files import storage_problem, temporary_directory_beside
from pytest_proofpack.common.reading import read_regular
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, count_values, parse_json, pretty_json
from pytest_proofpack.errors import FormatError, PackError
from pytest_proofpack.pack import attestations
from pytest_proofpack.pack import layout as where
from pytest_proofpack.pack.ahead import Ahead, Preparation
from pytest_proofpack.pack.attest import NOT_ATTESTED, AttestRequest, open_attestor
from pytest_proofpack.pack.attestations import Attesting, attestor_of
from pytest_proofpack.pack.attestations.bundle import parse_bundle
from pytest_proofpack.pack.attestations.statement import make_statement, statement_bytes
from pytest_proofpack.pack.check_attestation import configuration_of
from pytest_proofpack.pack.layout import LAYOUTS, Layout
from pytest_proofpack.pack.manifest import (
    TOOL,
    Manifest,
    Signing,
    checksums_text,
    extensions_of,
    pinned_facts,
    self_check,
)
from pytest_proofpack.pack.pages import PageMaker, make_pages
from pytest_proofpack.pack.sign import SigningMode, choose_signer
from pytest_proofpack.pack.signers import SIGNERS, Signer, SigningKey
from pytest_proofpack.pack.snapshot import FileFacts
from pytest_proofpack.report import judged_by, verdict_text


class Reporter(PageMaker, Protocol):
    """What makes the pages for people: :mod:`pytest_proofpack.report`."""

    def pack_readme(self, manifest_facts: JsonObject, signer: Signer, attestation: str | None = None) -> str:
        """Return the README; ``signer`` says how its signatures are checked, ``attestation`` is that file's name."""


@dataclass(frozen=True)
class PackRequest:
    """What to pack, and how.

    Attributes:
        run_directory: a finished run.
        target: the pack's directory; it must not exist, or be empty.
        layout: ``v1`` or ``v2``.
        sign: whether to sign: a :class:`SigningMode`, or the name of the signer that has to.
        gpg_key: the key to sign with; None for one of the signer's choice.
        attest: whether and how to attest.
        html: whether to write pages for people.
        network_mode: ``online`` or ``offline``, as the run was made.
        determinism: ``strict`` or ``throughput``, as the run was made.
        meta: facts that the maker states of the run.
        generated_at: by default now; with the same time, the same run gives the same bytes but for the signature.
    """

    run_directory: Path
    target: Path
    layout: str = "v1"
    sign: str = SigningMode.AUTO
    gpg_key: str | None = None
    attest: AttestRequest = NOT_ATTESTED
    html: bool = True
    network_mode: str = "offline"
    determinism: str = "throughput"
    generated_at: datetime | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PackResult:
    """A pack that was written.

    Attributes:
        directory: where it is.
        manifest_sha256: digest of manifest.json, which covers everything else.
        signing: the signer's fingerprint, or why there is none.
        verdict: ``PASS`` or ``FAIL``.
        certificates: how many it holds.
        attester: who attests it; None if nobody does.
    """

    directory: Path
    manifest_sha256: str
    signing: Signing
    verdict: str
    certificates: int
    attester: str | None = None


@dataclass
class _Run:
    """A run directory, read and checked: the files that go into the pack, and what is in them."""

    layout: Layout
    files: dict[str, bytes] = field(default_factory=dict)
    certificates: dict[str, JsonObject] = field(default_factory=dict)
    documents: dict[str, JsonObject] = field(default_factory=dict)

    @property
    def plan(self) -> JsonObject:
        plan: JsonObject = self.documents[self.layout.scenarios]["plan"]
        return plan

    @property
    def verdict(self) -> JsonObject:
        return self.documents[self.layout.verdict]


def write_pack(request: PackRequest, reporter: Reporter | None = None, ahead: Ahead | None = None) -> PackResult:
    """Write a pack of a finished run.

    Args:
        request: what to pack.
        reporter: makes the pages; by default :mod:`pytest_proofpack.report`.
        ahead: what it has prepared of certificates that are as they were then is not computed again.

    Raises:
        ConfigurationError: the signing key is not a fingerprint.
        PackError: the run is incomplete or does not verify, the target is taken, or the pack could not be signed or
            written. Nothing is left under the target's name.
    """
    _require_free(request.target)
    run = _read_run(request.run_directory, LAYOUTS[request.layout])
    prepared = {} if ahead is None else ahead.results(run.files)
    _require_sound(run, prepared)
    key, signing = choose_signer(request.sign, request.gpg_key)
    attesting = open_attestor(request.attest, request.network_mode)
    manifest = _manifest(request, run, signing)
    files = {**run.files, **_check_files(run), run.layout.summary: pretty_json(manifest.verification).encode()}
    attestation = attestations.FILE if attesting is not None else None
    pages = _pages(run, manifest, reporter or _default_reporter(), attestation, prepared if request.html else None)
    files |= {path: text.encode() for path, text in pages.items()}
    digests = {path: FileFacts.of(data) for path, data in files.items()}
    sealed = _sealed(replace(manifest, digests=digests), files, key)
    if attesting is not None:
        sealed |= _attested(run, digests, sealed, attesting)
    digests |= {path: FileFacts.of(data) for path, data in sealed.items() if path not in digests}
    sealed[where.CHECKSUMS] = checksums_text(digests).encode()
    _require_within_budgets(sealed)
    _write(request.target, sealed)
    return PackResult(
        directory=request.target,
        manifest_sha256=digests[where.MANIFEST].sha256,
        signing=signing,
        verdict=manifest.verdict,
        certificates=len(run.certificates),
        attester=_attester(sealed),
    )


def _default_reporter() -> Reporter:
    from pytest_proofpack import report  # jinja2 takes a while to import; only who packs pays

    return report


def _read_run(directory: Path, layout: Layout) -> _Run:
    run = _Run(layout)
    for source in layout.required:
        if not (directory / source).is_file():
            raise PackError(f"{source} is missing from the run directory {directory.name}: the run did not finish.")
    found = [path for pattern in ("presets/*.json", "*/certificates/**/*.json") for path in directory.glob(pattern)]
    sources = [*layout.required, *layout.optional, *(path.relative_to(directory).as_posix() for path in sorted(found))]
    for source in sources:
        target = layout.pack_path(source)
        if target is None or not (directory / source).is_file():
            continue
        try:
            data = read_regular(directory / source, BUDGETS.file_bytes, below=directory)
            document = parse_json(data, source) if source.endswith(".json") else {}
        except (OSError, FormatError) as error:
            raise PackError(f"{source} of the run cannot be packed: {error}") from error
        run.files[target] = data
        (run.certificates if where.is_certificate(target) else run.documents)[target] = document
    return run


def _require_sound(run: _Run, prepared: Mapping[str, Preparation]) -> None:
    """Make sure that the run proves its verdict: a pack that its own verification would refuse is not written."""
    if not run.certificates:
        raise PackError(
            "no certificate of the run came to be, and a pack without any proves nothing. Its items say why: "
            "mend that, then run it again."
        )
    for schema, path in run.layout.schemas.items():
        if path in run.documents and (findings := schema_findings(schema, run.documents[path])):
            raise PackError(f"{run.layout.run_path(path)} of the run is not valid: {'; '.join(findings)}")
    if "plan" not in run.documents[run.layout.scenarios]:
        raise PackError("state/scenarios.json of the run holds no plan; it is not one that a run wrote.")
    for path, certificate in run.certificates.items():
        findings = prepared[path].findings if path in prepared else check_certificate(certificate)
        if not findings and format_of(certificate) is not CURRENT:
            findings = ["is of an earlier format, and a pack holds one format only"]
        if not findings and path != where.expected_path(certificate, run.plan["models"]):
            findings = ["lies in a folder that does not belong to its model, scenario and run"]
        if findings:
            raise PackError(
                f"{run.layout.run_path(path)} does not verify ({'; '.join(findings[:3])}). Delete it and make it again."
            )
    if compute_verdict(run.documents[run.layout.scenarios], run.certificates.values()) != run.verdict:
        raise PackError("reports/final_verdict.json of the run is not what its certificates give. Run it again.")
    if run.files[run.layout.verdict_text] != verdict_text(run.verdict).encode():
        raise PackError("reports/final_verdict.txt of the run is not the text of its verdict. Run it again.")
    repeats = run.documents.get(run.layout.repeats)
    if repeats is not None and (findings := repeats_findings(repeats, run.certificates.values())):
        source = run.layout.run_path(run.layout.repeats)
        raise PackError(f"{source} of the run does not add up ({'; '.join(findings[:3])}). Delete it, or run it again.")


def _require_within_budgets(files: Mapping[str, bytes]) -> None:
    """Make sure that verification, which refuses what is larger than any pack, takes this one."""
    documents = {path: data for path, data in files.items() if path.endswith(".json")}
    certificates = sum(where.is_certificate(path) for path in documents)
    values = {path: count_values(data) for path, data in documents.items() if path != where.MANIFEST}
    folders = {folder for path in files for folder in PurePosixPath(path).parents} - {PurePosixPath(".")}
    sizes: list[tuple[str, int, int]] = [
        ("files and folders", len(files) + len(folders), BUDGETS.files),
        ("bytes of documents", sum(map(len, documents.values())), BUDGETS.json_bytes),
        ("values in its documents", sum(values.values()), BUDGETS.all_json_values(certificates)),
        ("bytes of manifest", len(files[where.MANIFEST]), BUDGETS.manifest_bytes),
        ("bytes in one document", max(len(documents[path]) for path in values), BUDGETS.document_bytes),
        ("values in one document", max(values.values()), BUDGETS.json_values),
    ]
    for what, size, limit in sizes:
        if size > limit:
            raise PackError(
                f"the pack would have {size} {what}, more than the {limit} that verification takes. Certify fewer "
                "models, edits or runs at a time."
            )


def _check_files(run: _Run) -> dict[str, bytes]:
    """Return ``verify.json`` for every certificate; :func:`_require_sound` has made sure that all is well."""
    return {
        where.beside(path, where.CHECK_FILE): pretty_json(
            {
                "certificate": where.CERTIFICATE_FILE,
                "certificate_digest": certificate["certificate_digest"],
                "certificate_sha256": FileFacts.of(run.files[path]).sha256,
                "checked_with": dict(TOOL),
                "findings": [],
                "ok": True,
            }
        ).encode()
        for path, certificate in run.certificates.items()
    }


def _manifest(request: PackRequest, run: _Run, signing: Signing) -> Manifest:
    """Return the manifest, as yet without the digests of the files."""
    models: list[str] = run.plan["models"]
    repeats = run.documents.get(run.layout.repeats)
    moment = (request.generated_at or datetime.now(UTC)).astimezone(UTC)
    known = pinned_facts(run.documents[run.layout.revisions])
    return Manifest(
        generated_at=f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        suite=run.plan["suite"],
        network_mode=request.network_mode,
        determinism=request.determinism,
        repeats=repeats["made"] if repeats is not None else 0,
        determinism_repeats=repeats,
        model_list=tuple(models),
        revisions={model: _revision(run, model, known) for model in models},
        licenses={model: known.get(model, {}).get("license") for model in models},
        verification=self_check(len(run.certificates), run.verdict["verdict"]),
        verdict=run.verdict["verdict"],
        signing=signing,
        digests={},
        extensions=extensions_of(run.certificates.values()),
        meta=request.meta,
    )


def _revision(run: _Run, model: str, known: Mapping[str, JsonObject]) -> str | None:
    """Return the revision that a model's certificates and the pinned revisions agree on."""
    revisions = {c["meta"]["revision"] for c in run.certificates.values() if c["meta"]["model_id"] == model}
    if "revision" in known.get(model, {}):
        revisions.add(known[model]["revision"])
    if len(revisions) > 1:
        names = ", ".join(sorted(str(revision) for revision in revisions))
        raise PackError(f"the certificates of {model} are of different revisions ({names}). Run it again.")
    return next(iter(revisions), None)


def _pages(
    run: _Run,
    manifest: Manifest,
    reporter: Reporter,
    attestation: str | None,
    prepared: Mapping[str, Preparation] | None,
) -> dict[str, str]:
    """Return the README and, unless ``prepared`` is None, the pages; none that is there already is made again."""
    facts = manifest.facts()
    stated = {**facts, "judged_by": judged_by(run.certificates.values())}
    readme = {where.README: reporter.pack_readme(stated, SIGNERS[manifest.signing.signer], attestation)}
    if prepared is None:
        return readme
    made = {path: own.page for path, own in prepared.items() if own.page is not None}
    return readme | make_pages(reporter, run.verdict, facts, run.certificates, made)


def _sealed(manifest: Manifest, files: Mapping[str, bytes], key: SigningKey | None) -> dict[str, bytes]:
    """Return all files with the manifest over them and its signature."""
    sealed = {**files, where.MANIFEST: pretty_json(manifest.to_json()).encode()}
    return sealed | dict(key.sign(sealed[where.MANIFEST]) if key is not None else {})


def _attested(
    run: _Run, digests: Mapping[str, FileFacts], sealed: Mapping[str, bytes], attesting: Attesting
) -> dict[str, bytes]:
    """Return the attestation of a manifest and all that it lists."""
    configuration = configuration_of(digests, run.layout)
    statement = make_statement(sealed[where.MANIFEST], configuration, run.verdict, run.certificates.values())
    return {attestations.FILE: attesting.sign(statement_bytes(statement))}


def _attester(sealed: Mapping[str, bytes]) -> str | None:
    """Return who attests, as whoever verifies has to name them."""
    if attestations.FILE not in sealed:
        return None
    bundle = parse_bundle(sealed[attestations.FILE])
    return attestor_of(bundle).claimed(bundle)


def _require_free(target: Path) -> None:
    """Make sure that nothing would be overwritten."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise PackError(f"{target} exists and is not a directory. Name another with --proofpack-pack-dir.")
    if target.is_dir() and any(target.iterdir()):
        raise PackError(f"{target} is not empty, and nothing is overwritten. Name another with --proofpack-pack-dir.")


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    target = target.absolute()
    staging = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = temporary_directory_beside(target)
        for path, data in files.items():
            _write_file(staging / path, data)
        for folder in sorted({(staging / path).parent for path in files}):
            _sync_folder(folder)
        staging.chmod(0o755)
        # An empty directory is replaced, anything else refused, by the kernel and in one step.
        staging.rename(target)
    except OSError as error:
        raise PackError(f"the pack could not be written. {storage_problem(target, error)}.") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    with suppress(OSError):  # the pack is there; only whether it survives a power cut is open
        _sync_folder(target.parent)


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
